//! A record that parses can be written and is the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runns_shared::name::NetnsName;
use runns_shared::record::Record;
use runns_shared::subnet::MAX_NUMBER;

fuzz_target!(|text: &str| {
    let Ok(record) = Record::parse(text) else {
        return;
    };
    assert!(NetnsName::new(record.plan.name.as_str()).is_ok());
    assert!(
        record.plan.number.get() <= MAX_NUMBER,
        "{}",
        record.plan.number
    );
    let _ = (
        record.plan.number.host(),
        record.plan.number.inside(),
        record.plan.tag(),
    );
    let written = serde_json::to_string_pretty(&record).unwrap();
    assert_eq!(Record::parse(&written).unwrap(), record);
});
