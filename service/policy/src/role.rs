//! What a tenant may call.

use std::fmt;

/// A group of RPCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Models, tokens and text.
    Inference,
    /// The server itself. Does not imply [`Role::Inference`].
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 2] = [Role::Inference, Role::Admin];

    /// As the tenants file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Inference => "inference",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The roles of one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Roles {
    inference: bool,
    admin: bool,
}

impl Roles {
    pub(crate) const ALL: Roles = Roles {
        inference: true,
        admin: true,
    };

    pub(crate) fn add(&mut self, role: Role) {
        match role {
            Role::Inference => self.inference = true,
            Role::Admin => self.admin = true,
        }
    }

    pub(crate) fn holds(self, role: Role) -> bool {
        match role {
            Role::Inference => self.inference,
            Role::Admin => self.admin,
        }
    }
}
