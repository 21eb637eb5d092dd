//! Who acts, and by which way: what a caller hands in with every act, and what the audit log keeps of it.

/// What kind of actor it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActorKind {
    /// A member of an organisation.
    User,
    /// A program with a token.
    Token,
    /// A gateway with its certificate.
    Gateway,
    /// A person of the operator's support.
    Support,
    /// An administrator.
    Admin,
    /// Whoever runs commands on the machine.
    Command,
}

/// Which way an act came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViaKind {
    /// A person's session.
    Session,
    /// A token.
    Token,
    /// A link between an organisation and somebody of the operator's.
    Link,
    /// A command on the machine.
    Command,
}

/// Makes a kind's one text form, and the way back.
macro_rules! text_form {
    ($kind:ident: $($variant:ident = $text:literal),+) => {
        impl $kind {
            /// The text that the audit log has for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }

            pub(crate) fn parse(text: &str) -> Option<Self> {
                [$(Self::$variant),+].into_iter().find(|kind| kind.as_str() == text)
            }
        }
    };
}

text_form!(ActorKind:
    User = "user", Token = "token", Gateway = "gateway", Support = "support", Admin = "admin", Command = "command");
text_form!(ViaKind: Session = "session", Token = "token", Link = "link", Command = "command");

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// What kind of actor it is.
    pub kind: ActorKind,
    /// The actor's id among those of this kind; for a command the number of the operating system's user.
    pub id: Option<String>,
    /// What people call the actor.
    pub name: String,
}

/// Which way an act came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// What kind of way it is.
    pub kind: ViaKind,
    /// The id of the session, token or link.
    pub id: Option<String>,
}

/// Who acts, and by which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who acts.
    pub actor: Actor,
    /// Which way the act came in.
    pub via: Via,
    /// The network address it came from.
    pub from: Option<String>,
    /// The request that it was.
    pub request_id: Option<String>,
}

impl Caller {
    /// A command that this user of the operating system runs.
    #[must_use]
    pub fn command(user_id: u32, user_name: impl Into<String>) -> Self {
        Self {
            actor: Actor { kind: ActorKind::Command, id: Some(user_id.to_string()), name: user_name.into() },
            via: Via { kind: ViaKind::Command, id: None },
            from: None,
            request_id: None,
        }
    }
}
