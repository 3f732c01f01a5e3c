//! Tunnels with a daemon: each `vpn=` is an OpenVPN, and `OpenConnect=` an openconnect, and beside each
//! a keeper, which does for it what needs root.
//!
//! Without the kill switch, the daemon runs in the namespace and sees its files in /etc; under the
//! kill switch, it runs outside. How it is confined says [`crate::tunnel::launch`], what its keeper
//! does [`crate::tunnel::keeper`]. build starts the keeper, and follows the connection through it
//! until it is established.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Part, Site, Wait};
use crate::confine;
use crate::facts::pushed::decides;
use crate::finding::{About, Finding};
use crate::kernel::daemon::{self, Detached};
use crate::kernel::netlink::{Netlink, in_namespace};
use crate::kernel::prompt;
use crate::kernel::sysctl::{set_sysctl, sysctl};
use crate::kernel::tool;
use crate::seen::Subject;
use crate::tunnel;
use crate::tunnel::Digest;
use crate::tunnel::check;
use crate::tunnel::daemons::{is_outside, unrecorded};
use crate::tunnel::keeper;
use crate::tunnel::launch::{Configuration, has_way, remove_devices};
use crate::tunnel::login::{Login, Question};
use crate::tunnel::management::{Follow, Management, Patience};
use crate::tunnel::openconnect::{self, options::Options};
use crate::tunnel::profile::{self, Profile};
use crate::tunnel::rehearsal::{Reading, read_by_openvpn};
use crate::tunnel::said;
use crate::tunnel::servers::{self, Servers};
use crate::tunnel::source;
use runns_shared::error::{Context, Error, Result, words as words_of};
use runns_shared::escape::{escape, quote, show};
use runns_shared::inside::{Inside, Route};
use runns_shared::output;
use runns_shared::output::warn;
use runns_shared::plan::Plan;
use runns_shared::record::{Daemon, Record};
use runns_shared::tunnel::TunnelState;
use runns_sys::process::{self, Fork};

/// From SIGTERM to SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a keeper, which ends its daemon first.
const KEEPERS_PATIENCE: Duration = Duration::from_secs(7);
/// The longest time that is added for servers that do not answer, before those that do are tried.
const MOST_PATIENCE: Duration = Duration::from_secs(300);
/// How long a keeper may take to start its daemon, or to find out why it does not start.
const STARTING: Duration = Duration::from_secs(15);

/// The part.
pub struct Daemons;

impl Part for Daemons {
    fn is_in(&self, plan: &Plan) -> bool {
        plan.request.daemons() > 0
    }

    fn describe(&self, plan: &Plan) -> Option<String> {
        let request = &plan.request;
        let mut files: Vec<String> = request.vpn.iter().map(show).collect();
        files.dedup();
        let openvpn = (!files.is_empty()).then(|| {
            let name = format!("{}-{}", profile::PROGRAM, plan.name);
            format!("OpenVPN ({name}): {}", files.join(", "))
        });
        let openconnect = request.openconnect.as_ref().map(|one| {
            let name = format!("{}-{}", openconnect::PROGRAM, plan.name);
            format!("OpenConnect ({name}): {}", escape(one.server.as_bytes()))
        });
        let all: Vec<String> = openvpn.into_iter().chain(openconnect).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        check(plan)
    }

    fn apply(&self, site: &mut Site) -> Result<()> {
        bring_up(site, |_| true)
    }

    fn undo(&self, site: &mut Site) -> Result<bool> {
        let recorded = stop_all(&site.record.keepers, &site.record.daemons);
        let is_keeper = |process: &Daemon| daemon::user_of(process.pid) == Some(0);
        let keepers = || {
            unrecorded(site.plan())
                .into_iter()
                .filter(is_keeper)
                .collect()
        };
        let keepers = daemon::stop_found(keepers, KEEPERS_PATIENCE);
        let daemons = daemon::stop_found(|| unrecorded(site.plan()), PATIENCE);
        // Also if one of them did not end: it may have seen to that.
        (0..site.plan().request.daemons())
            .map(|index| confine::end_user(confine::user(site.plan(), index)))
            .fold(Ok(()), Result::and)?;
        let mut stopped = recorded? | keepers? | daemons?;
        site.record.daemons.clear();
        site.record.keepers.clear();
        // A keeper that was killed has left them.
        for index in 0..site.plan().request.daemons() {
            stopped |= remove_devices(site.plan(), &site.host, site.open_namespace()?, index)?;
        }
        tunnel::remove_directories(&site.plan().name)?;
        Ok(stopped)
    }

    fn end(&self, site: &mut Site) -> Result<()> {
        for plan in site.record.earlier.clone() {
            for index in 0..plan.request.daemons() {
                if !is_started(site.plan(), index) {
                    // From now on, it is not taken for one that runs.
                    tunnel::forget(&plan.name, index)?;
                    stop(site, &plan, index)?;
                    tunnel::forget(&plan.name, index)?;
                }
            }
        }
        if !site.plan().request.has_tunnel() {
            tunnel::remove_directories(&site.plan().name)?;
        }
        Ok(())
    }

    fn change(&self, site: &mut Site) -> Result<()> {
        let plan = site.plan().clone();
        let is_new = |index: &usize| !is_started(&plan, *index);
        // A change that was killed may have left something of it.
        for index in (0..plan.request.daemons()).filter(is_new) {
            stop(site, &plan, index)?;
        }
        bring_up(site, |index| is_new(&index))
    }

    fn is_way_out(&self) -> bool {
        true
    }

    fn look(&self, subject: &Subject) -> Result<Vec<Finding>> {
        let found = (0..subject.record.plan.request.daemons()).map(|index| look(subject, index));
        Ok(found
            .collect::<Result<Vec<Option<Finding>>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    fn unseen(&self, plan: &Plan) -> Option<&'static str> {
        (plan.request.daemons() > 0 && !plan.request.kill_switch)
            .then_some("the route of the daemons' own packets")
    }

    fn repair(&self, site: &mut Site, found: &[Finding]) -> Result<()> {
        let broken = |index: &usize| {
            found
                .iter()
                .any(|finding| finding.about == About::Tunnel(*index))
        };
        let mut errors = Vec::new();
        for index in (0..site.plan().request.daemons()).filter(broken) {
            if !is_left_alone(site, index) {
                errors.extend(restart(site, index).err());
            }
        }
        Error::all(errors).map_or(Ok(()), Err)
    }
}

/// Checks the programs and the configuration files before anything is created.
fn check(plan: &Plan) -> Result<()> {
    let request = &plan.request;
    for config in &request.vpn {
        tool::need(profile::PROGRAM, "openvpn")?;
        let checked = check::check_named(config, source::Kind::OpenVpn)?;
        Profile::read(config)?.copies()?;
        for left_out in checked.left_out {
            warn(&format!("{}: ignoring {left_out}", show(config)));
        }
    }
    if let Some(one) = &request.openconnect {
        tool::need(openconnect::PROGRAM, "openconnect")?;
        let options = Options::read(one)?;
        options.copies()?;
        options.read_password()?;
        if let Some(file) = one
            .options
            .as_ref()
            .filter(|_| !options.left_out.is_empty())
        {
            let left_out = escape(options.left_out.join(", ").as_bytes());
            warn(&format!(
                "{}: ignoring {left_out} (runns-exec does this itself)",
                show(file)
            ));
        }
    }
    if request.daemons() > 0 && !Path::new("/dev/net/tun").exists() {
        let what = "start a tunnel's daemon";
        return Err(Error::new(what, "/dev/net/tun does not exist").hint("sudo modprobe tun"));
    }
    Ok(())
}

/// Has OpenVPN read the files of the tunnels that are to be started, for a build that changes
/// nothing.
pub fn rehearse(plan: &Plan) -> Result<()> {
    let files = plan.request.vpn.iter().enumerate();
    let new = files.filter(|(index, _)| !is_started(plan, *index));
    read_by_openvpn(new.map(|(_, file)| {
        let profile = Profile::read(file)?;
        Ok(Reading {
            action: format!("use {}", show(file)),
            name: file.clone(),
            copies: profile.copies()?,
            answered: profile.credentials()?.is_some(),
            edit: Some((file.clone(), "sudo sed")),
            profile,
        })
    }))
}

/// IPv6=no: disables IPv6 on the device that will be created inside, whatever the server
/// pushes.
fn turn_ipv6_off(site: &Site) -> Result<()> {
    const DEFAULT: &str = "net/ipv6/conf/default/disable_ipv6";
    let Some(namespace) = site
        .open_namespace()?
        .filter(|_| site.plan().request.ipv6 == Some(false))
    else {
        return Ok(());
    };
    in_namespace(namespace.as_fd(), || {
        if sysctl(DEFAULT)?.is_some() {
            set_sysctl(DEFAULT, "1")
        } else {
            Ok(())
        }
    })
}

/// Servers whose names are looked up.
const MOST_NAMES: usize = 1024;

/// Looks up the names of servers and proxies on the host, for the daemons in the namespace.
fn find_servers(site: &Site) -> Result<()> {
    let request = &site.plan().request;
    if request.kill_switch {
        return Ok(());
    }
    let mut all = Vec::new();
    for (index, config) in request.tunnels().take(request.daemons()).enumerate() {
        let names = Configuration::read(request, index)?.names();
        if names.len() > MOST_NAMES {
            let cause = format!(
                "it names {} servers; without the kill switch, {MOST_NAMES} are looked up at most",
                names.len()
            );
            return Err(Error::new(format!("use {}", show(config)), cause));
        }
        let mut servers = Servers::known(&site.plan().name, names);
        for name in servers.look_up() {
            warn(&format!(
                "{}: the server's name {name} was not found by the host's resolver",
                show(config)
            ));
        }
        if process::was_interrupted() {
            return Err(Error::new(
                "look up the servers' names",
                "interrupted by a signal",
            ));
        }
        all.push(servers);
    }
    servers::store(&site.plan().name, &all)
}

/// Starts the keeper of a tunnel, which starts the daemon; returns the connection to it.
fn start(site: &mut Site, index: usize) -> Result<Management> {
    let configuration = Configuration::read(&site.plan().request, index)?;
    let config = &config(site.plan(), index);
    let kind = configuration.kind();
    let cannot = || format!("start {kind} with {}", show(config));
    // Whatever an earlier daemon has left would have the same user.
    confine::end_user(confine::user(site.plan(), index))?;
    let (ours, theirs) = UnixStream::pair().cannot(cannot)?;
    let pid = match process::fork().cannot(cannot)? {
        Fork::Child => {
            let Err(error) = become_keeper(site, index, theirs);
            output::complain_error(&error);
            process::exit_now(1)
        }
        Fork::Parent(pid) => pid,
    };
    drop(theirs);
    site.record
        .keepers
        .extend(Daemon::identify(pid.as_raw(), config));
    site.save()?;
    let mut management = Management::new(ours, kind, configuration.program(), &site.plan().name);
    let said = started(site, config, &mut management)?;
    if let Some(pid) = said
        .strip_prefix(said::STARTED)
        .and_then(|pid| pid.parse().ok())
    {
        site.record.daemons.extend(Daemon::identify(pid, config));
        site.save()?;
        return Ok(management);
    }
    let failure = said.strip_prefix(said::FAILED).unwrap_or_default();
    let (cause, hint) = failure.split_once(said::SEPARATOR).unwrap_or((failure, ""));
    // One that has gone on to log in.
    let error = match configuration {
        Configuration::OpenConnect(_) => Error::new(format!("connect to {}", show(config)), cause),
        Configuration::OpenVpn(_) => Error::new(cannot(), cause),
    };
    Err(if hint.is_empty() {
        error
    } else {
        error.hint(hint)
    })
}

/// What the keeper says when it has started its daemon, or could not. Before that, somebody may have
/// to log in; the time in which somebody types does not count. Only an answer gives the server more
/// time, not what it says by itself.
fn started(site: &Site, config: &Path, management: &mut Management) -> Result<String> {
    let shown = show(config);
    let patience = site.wait.map_or(STARTING, |wait| wait.time.max(STARTING));
    let mut deadline = Instant::now() + patience;
    loop {
        let said = management
            .line(deadline)
            .map_err(|error| error.within(format!("start the daemon of {shown}")))?;
        if said == said::LOGIN {
            let answer = match &site.session {
                Some(session) => format!("{}{}", said::SESSION, session.to_line()),
                None => said::LOG_IN.to_string(),
            };
            management.send(&answer)?;
        } else if let Some(question) = said.strip_prefix(said::QUESTION) {
            let (echo, what) = question.split_at_checked(1).unwrap_or_default();
            let what = what.trim_end_matches(':');
            let echo = echo == "+";
            let answer = match ask(&shown, &Question { what, echo })? {
                Some(answer) => format!("{}{answer}{}", said::ANSWER, said::SEPARATOR),
                None => said::NO_ANSWER.to_string(),
            };
            management.send(&answer)?;
            deadline = Instant::now() + patience;
        } else if let Some(message) = said.strip_prefix(said::MESSAGE) {
            management.enter("AUTH");
            if std::io::stdin().is_terminal() {
                output::complain(&format!("{shown}: {message}"));
            }
        } else {
            management.enter("");
            return Ok(said);
        }
    }
}

/// In the child: executes this program as the keeper. Its input is the connection to build.
fn become_keeper(site: &Site, index: usize, build: UnixStream) -> Result<Infallible> {
    site.lock.close_on_exec()?;
    nix::unistd::chdir("/").cannot(|| "enter /")?;
    Detached::begin()?.redirect(Some(build.as_fd()), None, None)?;
    let program = std::env::current_exe().cannot(|| "find this program's own executable")?;
    let mode = if site.wait.is_some() {
        keeper::FOLLOW
    } else {
        keeper::ALONE
    };
    let (name, index) = (site.plan().name.to_string(), index.to_string());
    let words = [
        &program.to_string_lossy(),
        keeper::NAME,
        &name,
        &index,
        mode,
    ]
    .map(|word| CString::new(word).unwrap_or_default());
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let environment = CString::new(format!("PATH={}", tool::PATH)).unwrap_or_default();
    // The very program that runs, even if another one is installed at this moment.
    let errno = process::execute(c"/proc/self/exe", &words, &[&environment]);
    Err(Error::new("execute the tunnel's keeper", words_of(errno)))
}

/// Follows a daemon until it is connected and its device is set up in the namespace.
fn follow(site: &Site, index: usize, management: &mut Management, wait: Wait) -> Result<()> {
    let shown = show(config(site.plan(), index));
    let cannot = |error: Error| error.within(format!("bring up the tunnel of {shown}"));
    let configuration = Configuration::read(&site.plan().request, index)?;
    match &configuration {
        Configuration::OpenVpn(profile) => follow_openvpn(site, profile, management, wait),
        Configuration::OpenConnect(_) => management.wait_until_connected(wait.time),
    }
    .map_err(cannot)?;
    if !TunnelState::load(&site.plan().name, index).up {
        let name = configuration.daemon_name(site.plan());
        return Err(cannot(Error::new(
            "connect",
            "it is connected, but its device could not be set up inside",
        ))
        .hint(format!("journalctl -t {name} -t runns-exec")));
    }
    Ok(())
}

fn follow_openvpn(
    site: &Site,
    profile: &Profile,
    management: &mut Management,
    wait: Wait,
) -> Result<()> {
    let shown = show(profile.file());
    let progress = |step: &str| {
        if std::io::stderr().is_terminal() {
            output::complain(&format!("{shown}: {step}"));
        }
    };
    let tell = |words: &str| output::complain(&format!("{shown}: {words}"));
    let ask = |question: &Question| ask(&shown, question);
    let by_hand = by_hand(&site.record);
    management.wait(Follow {
        login: Login::new(profile, &ask, &by_hand),
        patience: patience(profile, wait),
        longer: (wait.fixed && profile.servers().len() > 1)
            .then(|| format!("{by_hand} --wait {}", needed(profile, wait.time).as_secs())),
        retry: profile.value("auth-retry").unwrap_or_default(),
        progress: &progress,
        tell: &tell,
    })
}

/// Asks on the terminal, if there is one.
fn ask(shown: &str, question: &Question) -> Result<Option<String>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    prompt::ask(&format!("{shown}: {}: ", question.what), question.echo).map(Some)
}

/// The command that asks for what a build without a terminal could not ask for.
fn by_hand(record: &Record) -> String {
    let request = &record.plan.request;
    let change = if record.earlier.is_empty() {
        ""
    } else {
        " --change"
    };
    match &request.section {
        Some(section) => format!("sudo runns-exec build -s {}{change}", quote(section)),
        None => format!("sudo runns-exec build -n {}", record.plan.name),
    }
}

/// How long it may take until the last server was tried. OpenVPN goes to the next one when one has
/// been silent for its time.
fn needed(profile: &Profile, time: Duration) -> Duration {
    time + profile.time_for_others().min(MOST_PATIENCE)
}

fn patience(profile: &Profile, wait: Wait) -> Patience {
    Patience {
        least: wait.time,
        most: match wait.fixed {
            true => wait.time,
            false => needed(profile, wait.time),
        },
    }
}

/// The configuration of tunnel `index`.
fn config(plan: &Plan, index: usize) -> PathBuf {
    let config = plan.request.tunnels().nth(index);
    config.unwrap_or(Path::new("")).to_path_buf()
}

fn what(config: &Path) -> String {
    format!("tunnel of {}", show(config))
}

fn look(subject: &Subject, index: usize) -> Result<Option<Finding>> {
    let plan = &subject.record.plan;
    let request = &plan.request;
    let tunnel = tunnel::condition(subject, index);
    let by_device =
        |route: &Route| route.device == tunnel.state.device && route.network.0.is_ipv4();
    let routes = subject.inside.as_ref().map(Inside::routes);
    let lost = routes.as_ref().filter(|routes| {
        request.kill_switch
            && !routes
                .iter()
                .any(|route| by_device(route) && route.network.1 <= 1)
    });
    let mut lost = lost.map(|_| "its default route is gone");
    let daemon = subject.record.daemons.iter();
    let outside = daemon
        .filter(|daemon| daemon.config == tunnel.config)
        .any(|daemon| is_outside(daemon.pid));
    if let Some(inside) = subject.deep()?.filter(|_| !request.kill_switch && !outside) {
        let has_way = || has_way(&Netlink::here()?, plan, index);
        if !in_namespace(inside.file.as_fd(), has_way)? {
            lost = Some("the route to its server is gone");
        }
    }
    let program = match index < request.vpn.len() {
        true => profile::PROGRAM,
        false => openconnect::PROGRAM,
    };
    let is_down = tunnel.is_down || request.kill_switch && lost.is_some();
    let told = |reason: String| format!("{reason} (journalctl -t {program}-{})", plan.name);
    let finding = tunnel
        .reason
        .map(told)
        .or(lost.map(str::to_string))
        .map(|how| Finding::degraded(what(&tunnel.config), how).about(About::Tunnel(index)));
    Ok(finding.map(|finding| Finding {
        fatal: is_down,
        ..finding
    }))
}

/// What tunnel `index` of a plan depends on.
fn digest(plan: &Plan, index: usize) -> Result<Digest> {
    let request = &plan.request;
    let configuration = Configuration::read(request, index)?;
    let mut files: Vec<_> = configuration
        .copies()?
        .into_iter()
        .map(|copy| (copy.at, copy.contents))
        .collect();
    files.sort_unstable();
    Ok(Digest::of((
        configuration.kind(),
        config(plan, index),
        files,
        request.kill_switch,
        request.ipv6,
        // A daemon that runs outside without the kill switch is bound to no uplink.
        !request.kill_switch && request.uplink.is_some(),
    )))
}

/// Whether something that tunnel `index` depends on has changed since it was started.
pub fn has_changed(plan: &Plan, index: usize) -> bool {
    tunnel::started_with(&plan.name, index).is_some() && !is_started(plan, index)
}

/// Whether tunnel `index` of a plan is the one that was started.
pub fn is_started(plan: &Plan, index: usize) -> bool {
    let started = tunnel::started_with(&plan.name, index);
    let has_it = index < plan.request.daemons() && started.is_some();
    has_it && digest(plan, index).ok() == started
}

/// Starts those tunnels that are `meant`, and follows each until it is connected.
fn bring_up(site: &mut Site, meant: impl Fn(usize) -> bool) -> Result<()> {
    let all = 0..site.plan().request.daemons();
    let meant: Vec<usize> = all.filter(|index| meant(*index)).collect();
    if meant.is_empty() {
        return Ok(());
    }
    tunnel::make_directories(&site.plan().name)?;
    find_servers(site)?;
    turn_ipv6_off(site)?;
    if site.wait.is_none() && decides(site.plan()) {
        warn(
            "name servers that the VPN server pushes are not used with --no-wait: set DNS or Resolve",
        );
    }
    for index in meant {
        let digest = digest(site.plan(), index)?;
        let mut management = start(site, index)?;
        if let Some(wait) = site.wait {
            follow(site, index, &mut management, wait)?;
        }
        management.send(said::STAY)?;
        tunnel::note_start(&site.plan().name, index, digest)?;
    }
    Ok(())
}

/// Ends keepers, which end their daemons, and then the daemons whose keepers did not. Two signals at
/// once would end an OpenVPN before it has told its server (process_sigterm in its sig.c).
fn stop_all(keepers: &[Daemon], daemons: &[Daemon]) -> Result<bool> {
    let keepers = daemon::stop_all(keepers, KEEPERS_PATIENCE);
    let daemons = daemon::stop_all(daemons, PATIENCE);
    Ok(keepers? | daemons?)
}

/// Stops the keeper and the daemon of tunnel `index` of a plan, as far as they still run.
fn stop(site: &mut Site, plan: &Plan, index: usize) -> Result<()> {
    let config = config(plan, index);
    let take = |running: &mut Vec<Daemon>| -> Vec<Daemon> {
        let all = std::mem::take(running).into_iter();
        let (own, others) = all.partition(|daemon| daemon.config == config);
        *running = others;
        own
    };
    let keepers = take(&mut site.record.keepers);
    let daemons = take(&mut site.record.daemons);
    let recorded = stop_all(&keepers, &daemons);
    // A build that was killed may not have recorded it.
    let index_word = index.to_string();
    let is_its = |keeper: &Daemon| daemon::command_line(keeper.pid).get(3) == Some(&index_word);
    let found = daemon::stop_found(
        || unrecorded(plan).into_iter().filter(is_its).collect(),
        PATIENCE,
    );
    // Also if one of them did not end: it may have seen to that.
    confine::end_user(confine::user(plan, index))?;
    let _ = recorded? | found?;
    remove_devices(plan, &site.host, site.open_namespace()?, index)?;
    site.save()
}

/// Whether a build that does not wait for tunnels leaves this one as it is: it is being connected, or
/// its daemon has ended and said why. Such builds follow each change of the network, and would repeat
/// a login that the server has refused until it locks the account.
fn is_left_alone(site: &Site, index: usize) -> bool {
    let state = TunnelState::load(&site.plan().name, index);
    let config = config(site.plan(), index);
    let runs = |processes: &[Daemon]| {
        let mut own = processes.iter().filter(|one| one.config == config);
        own.any(Daemon::is_running)
    };
    let is_connecting = runs(&site.record.daemons) && runs(&site.record.keepers);
    site.wait.is_none() && !state.up && (is_connecting || state.reason.is_some())
}

/// Stops a tunnel's keeper and daemon, as far as they still run, and starts them anew.
fn restart(site: &mut Site, index: usize) -> Result<()> {
    let plan = site.plan().clone();
    let name = plan.name.clone();
    stop(site, &plan, index)?;
    // What it said last is no longer true, but its name servers are those that the namespace has. A
    // session that has ended stays so until somebody has logged in.
    let earlier = TunnelState::load(&name, index);
    let state = TunnelState {
        up: false,
        reason: earlier.reason.filter(|_| earlier.ended),
        ..earlier
    };
    tunnel::make_directories(&name)?;
    tunnel::save(&state, &name, index)?;
    find_servers(site)?;
    turn_ipv6_off(site)?;
    let digest = digest(&plan, index)?;
    let mut management = start(site, index)?;
    tunnel::note_start(&name, index, digest)?;
    // If it does not connect in time, it goes on trying.
    let followed = site
        .wait
        .map_or(Ok(()), |wait| follow(site, index, &mut management, wait));
    management.send(said::STAY)?;
    followed
}
