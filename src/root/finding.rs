//! What is not as it was built.

/// What a finding is about, as far as somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The host's firewall.
    Firewall,
    /// A tunnel: its place among the namespace's.
    Tunnel(usize),
    /// Anything else.
    Other,
}

/// Something that is not as it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub about: About,
    /// The same for people: `interface vpn1`.
    pub what: String,
    /// What is wrong with it: `down`.
    pub how: String,
    /// The namespace is down: nothing gets through, or not through a tunnel.
    pub fatal: bool,
    /// What the administrator has to do; if `None`, building again repairs it.
    pub cure: Option<String>,
}

impl Finding {
    /// The namespace works, but not as it was built.
    pub fn degraded(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self {
            about: About::Other,
            what: what.into(),
            how: how.into(),
            fatal: false,
            cure: None,
        }
    }

    /// Nothing gets through.
    pub fn down(what: impl Into<String>, how: impl Into<String>) -> Self {
        Self {
            fatal: true,
            ..Self::degraded(what, how)
        }
    }

    /// What it is about.
    pub fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// Building again does not repair it; this does.
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Self {
            cure: Some(cure.into()),
            ..self
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.how)
    }
}
