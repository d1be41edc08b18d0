//! The tenants file, read by hand from a parsed document: deserialising would
//! stop at the first mistake, and would repeat values that may be keys.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use toml::de::DeTable;

use crate::{
    key_hash::{KEY_PREFIX, KeyHash},
    limits::{Limits, MAX_LIMIT},
    mistakes::{Mistakes, TenantsError},
    node::{Node, Table, quoted},
    role::{Role, Roles},
    san::{BadSan, San},
    tenant_id::{MAX_TENANT_NAME, TenantId},
    tenants::{Key, Tenant},
};

const MAX_TEXT: usize = 1 << 20;
const MAX_TENANTS: usize = 10_000;
const MAX_KEYS: usize = 64;
const MAX_CERTIFICATES: usize = 64;
const MAX_KEY_ID: usize = 64;
const MAX_ROLES: usize = Role::ALL.len();
/// Beyond that a tenant is to have it all.
const MAX_WEIGHT: u64 = 1000;

pub(crate) fn parse(text: &str) -> Result<Vec<Tenant>, TenantsError> {
    let mut mistakes = Mistakes::in_text(text);
    let mut tenants = Vec::new();
    if text.len() > MAX_TEXT {
        let message = format!("file has {} bytes, at most {MAX_TEXT} may be", text.len());
        mistakes.add("", 0, message);
        return mistakes.none_or(tenants);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // The message alone: the error's own text repeats the line.
        let at = error.span().map_or(0, |span| span.start);
        mistakes.add("", at, format!("not TOML: {}", error.message()));
    }
    // What can be read of a broken document is not what was meant.
    if errors.is_empty() {
        let root = Table::root(&document, &["tenants"], &mut mistakes);
        tenants = Reader::new(&mut mistakes).tenants(&root);
    }
    mistakes.none_or(tenants)
}

struct Reader<'m, 't> {
    mistakes: &'m mut Mistakes<'t>,
    names: Seen<TenantId>,
    hashes: Seen<KeyHash>,
    sans: Seen<San>,
}

/// Values that must differ, and where they were seen.
struct Seen<T>(HashMap<T, String>);

impl<T: Clone + Eq + Hash> Seen<T> {
    fn see(&mut self, value: &T, node: &Node<'_>, mistakes: &mut Mistakes<'_>) {
        match self.0.get(value) {
            Some(first) => mistakes.add(&node.path, node.at, format!("is the same as {first}")),
            None => {
                self.0.insert(value.clone(), node.path.clone());
            }
        }
    }
}

impl<'m, 't> Reader<'m, 't> {
    fn new(mistakes: &'m mut Mistakes<'t>) -> Reader<'m, 't> {
        Reader {
            mistakes,
            names: Seen(HashMap::new()),
            hashes: Seen(HashMap::new()),
            sans: Seen(HashMap::new()),
        }
    }

    /// Those that are without mistakes.
    fn tenants(&mut self, root: &Table<'_>) -> Vec<Tenant> {
        let nodes = match root.get("tenants") {
            Some(node) => node.tables(MAX_TENANTS, self.mistakes),
            None => Some(Vec::new()),
        };
        if nodes.as_ref().is_some_and(Vec::is_empty) {
            let message = "there are none, so nobody could call";
            self.mistakes.add("tenants", 0, message);
        }
        let nodes = nodes.unwrap_or_default();
        nodes.iter().filter_map(|node| self.tenant(node)).collect()
    }

    fn tenant(&mut self, node: &Node<'_>) -> Option<Tenant> {
        let known = [
            "name",
            "roles",
            "cache_group",
            "keys",
            "certificates",
            "weight",
            "limits",
        ];
        let table = node.table(&known, self.mistakes)?;
        let id = self.name(&table);
        let roles = self.roles(&table);
        let cache_group = self.cache_group(&table);
        let keys = self.keys(&table);
        let sans = self.certificates(&table);
        if table.get("keys").is_none() && table.get("certificates").is_none() {
            let message = "has neither keys nor certificates, so nobody could be it";
            self.mistakes.add(&table.path, table.at, message);
        }
        Some(Tenant {
            id: id?,
            roles: roles?,
            cache_group: cache_group?,
            keys: keys?,
            sans: sans?,
            weight: self.weight(&table)?,
            limits: self.limits(&table)?,
        })
    }

    fn name(&mut self, tenant: &Table<'_>) -> Option<TenantId> {
        let node = tenant.required("name", self.mistakes)?;
        let text = node.string(self.mistakes)?;
        let id = TenantId::parse(text).filter(|id| id.as_str() != TenantId::ANONYMOUS);
        match &id {
            Some(id) => self.names.see(id, &node, self.mistakes),
            None if text == TenantId::ANONYMOUS => {
                let message = format!("{text} is what callers are without tenants");
                self.mistakes.add(&node.path, node.at, message);
            }
            None => self.not_a_name(&node, text),
        }
        id
    }

    fn not_a_name(&mut self, node: &Node<'_>, text: &str) {
        let message = format!(
            "must be 1 to {MAX_TENANT_NAME} of a-z, 0-9 and -, not {}",
            quoted(text)
        );
        self.mistakes.add(&node.path, node.at, message);
    }

    fn cache_group(&mut self, tenant: &Table<'_>) -> Option<Option<TenantId>> {
        let Some(node) = tenant.get("cache_group") else {
            return Some(None);
        };
        let text = node.string(self.mistakes)?;
        let group = TenantId::parse(text);
        if group.is_none() {
            self.not_a_name(&node, text);
        }
        Some(group)
    }

    fn roles(&mut self, tenant: &Table<'_>) -> Option<Roles> {
        let mut roles = Roles::default();
        let Some(node) = tenant.get("roles") else {
            roles.add(Role::Inference);
            return Some(roles);
        };
        let items = node.array(MAX_ROLES, self.mistakes)?;
        if items.is_empty() {
            let message = "there are none, so the tenant could call nothing";
            self.mistakes.add(&node.path, node.at, message);
        }
        for item in items {
            if let Some(role) = self.role(&item) {
                roles.add(role);
            }
        }
        Some(roles)
    }

    fn role(&mut self, node: &Node<'_>) -> Option<Role> {
        let text = node.string(self.mistakes)?;
        let role = Role::ALL.into_iter().find(|role| role.name() == text);
        if role.is_none() {
            let names = Role::ALL.map(Role::name).join(" or ");
            let message = format!("must be {names}, not {}", quoted(text));
            self.mistakes.add(&node.path, node.at, message);
        }
        role
    }

    fn keys(&mut self, tenant: &Table<'_>) -> Option<Vec<Key>> {
        let Some(node) = tenant.get("keys") else {
            return Some(Vec::new());
        };
        let nodes = node.tables(MAX_KEYS, self.mistakes)?;
        let mut ids = Seen(HashMap::new());
        let keys = nodes.iter().filter_map(|node| self.key(node, &mut ids));
        Some(keys.collect())
    }

    fn key(&mut self, node: &Node<'_>, ids: &mut Seen<Arc<str>>) -> Option<Key> {
        let table = node.table(&["id", "hash"], self.mistakes)?;
        let id = self.key_id(&table, ids);
        let hash = self.hash(&table);
        Some(Key {
            id: id?,
            hash: hash?,
        })
    }

    fn key_id(&mut self, key: &Table<'_>, ids: &mut Seen<Arc<str>>) -> Option<Arc<str>> {
        let node = key.required("id", self.mistakes)?;
        let text = node.string(self.mistakes)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let problem = if text.starts_with(KEY_PREFIX) {
            "looks like a key, and ids are written to logs: choose a name such as a date".to_owned()
        } else if !(1..=MAX_KEY_ID).contains(&text.len()) || !text.bytes().all(allowed) {
            format!("must be 1 to {MAX_KEY_ID} of a-z, A-Z, 0-9, -, _ and .")
        } else {
            let id = text.into();
            ids.see(&id, &node, self.mistakes);
            return Some(id);
        };
        self.mistakes.add(&node.path, node.at, problem);
        None
    }

    fn hash(&mut self, key: &Table<'_>) -> Option<KeyHash> {
        let node = key.required("hash", self.mistakes)?;
        let text = node.string(self.mistakes)?;
        let hash = KeyHash::parse(text);
        match &hash {
            Some(hash) => self.hashes.see(hash, &node, self.mistakes),
            None if text.starts_with(KEY_PREFIX) => {
                let message = "is a key itself, which is now no secret any more: make a new one, \
                               and write its hash";
                self.mistakes.add(&node.path, node.at, message);
            }
            None => {
                let message = "must be sha256: and 64 hexadecimal digits, as of \
                               `printf %s \"$KEY\" | sha256sum`";
                self.mistakes.add(&node.path, node.at, message);
            }
        }
        hash
    }

    fn certificates(&mut self, tenant: &Table<'_>) -> Option<Vec<San>> {
        let Some(node) = tenant.get("certificates") else {
            return Some(Vec::new());
        };
        let nodes = node.tables(MAX_CERTIFICATES, self.mistakes)?;
        let sans = nodes.iter().filter_map(|node| self.san(node));
        Some(sans.collect())
    }

    fn san(&mut self, certificate: &Node<'_>) -> Option<San> {
        let table = certificate.table(&["san"], self.mistakes)?;
        let node = table.required("san", self.mistakes)?;
        let text = node.string(self.mistakes)?;
        let problem = match San::parse(text) {
            Ok(san) => {
                self.sans.see(&san, &node, self.mistakes);
                return Some(san);
            }
            Err(BadSan::Wildcard) => "names are compared whole, and * stands for nothing",
            Err(BadSan::NoName) => "must be a URI (spiffe://prod/acme) or a DNS name",
        };
        let message = format!("{problem}: {}", quoted(text));
        self.mistakes.add(&node.path, node.at, message);
        None
    }

    fn weight(&mut self, tenant: &Table<'_>) -> Option<u32> {
        let Some(node) = tenant.get("weight") else {
            return Some(1);
        };
        let weight = node.number(MAX_WEIGHT, "without it it is 1", self.mistakes)?;
        u32::try_from(weight).ok()
    }

    fn limits(&mut self, tenant: &Table<'_>) -> Option<Limits> {
        let Some(node) = tenant.get("limits") else {
            return Some(Limits::default());
        };
        let known = [
            "requests_per_minute",
            "tokens_per_minute",
            "concurrent_requests",
            "max_prompt_tokens",
            "max_output_tokens",
        ];
        let table = node.table(&known, self.mistakes)?;
        let absent = "without it there is no limit";
        let mut limit = |key| table.get(key)?.number(MAX_LIMIT, absent, self.mistakes);
        let [requests, tokens, concurrent, prompt, output] = known.map(&mut limit);
        Some(Limits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            concurrent_requests: concurrent,
            max_prompt_tokens: prompt,
            max_output_tokens: output,
        })
    }
}
