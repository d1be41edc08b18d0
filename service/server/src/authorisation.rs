//! Who may call what: one row for each RPC. What has no row is refused.

use ternion_policy::Role;

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing: probes and tools carry no credentials.
    Nothing,
    /// A credential of a tenant with this role.
    Role(Role),
}

/// Path of each RPC, as HTTP/2 has it, and what it needs.
pub(crate) const TABLE: &[(&str, Needs)] = &[
    ("/grpc.health.v1.Health/Check", Needs::Nothing),
    ("/grpc.health.v1.Health/Watch", Needs::Nothing),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Needs::Nothing,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Needs::Nothing,
    ),
    (
        "/ternion.v1.InferenceService/Session",
        Needs::Role(Role::Inference),
    ),
    (
        "/ternion.v1.InferenceService/Generate",
        Needs::Role(Role::Inference),
    ),
    (
        "/ternion.v1.InferenceService/Tokenize",
        Needs::Role(Role::Inference),
    ),
    (
        "/ternion.v1.InferenceService/Detokenize",
        Needs::Role(Role::Inference),
    ),
    (
        "/ternion.v1.InferenceService/CountTokens",
        Needs::Role(Role::Inference),
    ),
    (
        "/ternion.v1.ModelService/List",
        Needs::Role(Role::Inference),
    ),
    ("/ternion.v1.ModelService/Get", Needs::Role(Role::Inference)),
    (
        "/ternion.v1.RequestService/List",
        Needs::Role(Role::Inference),
    ),
    (
        "/ternion.v1.RequestService/Cancel",
        Needs::Role(Role::Inference),
    ),
    ("/ternion.v1.AdminService/Kernels", Needs::Role(Role::Admin)),
    ("/ternion.v1.AdminService/Load", Needs::Role(Role::Admin)),
    ("/ternion.v1.AdminService/Drain", Needs::Role(Role::Admin)),
];

/// The row of a path.
pub(crate) fn row(path: &str) -> Option<&'static (&'static str, Needs)> {
    TABLE.iter().find(|(rpc, _)| *rpc == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn rpcs(descriptors: &[u8]) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(descriptors).expect("a descriptor set");
        let mut paths = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_a_row_and_every_row_an_rpc() {
        let served: BTreeSet<String> = [
            ternion_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .flat_map(rpcs)
        .collect();
        let rows: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(served, rows);
        assert_eq!(rows.len(), TABLE.len(), "a path has two rows");
    }

    #[test]
    fn only_probes_and_reflection_are_open() {
        for (path, needs) in TABLE {
            let standard = path.starts_with("/grpc.");
            assert_eq!(*needs == Needs::Nothing, standard, "{path}");
            let admin = path.starts_with("/ternion.v1.AdminService/");
            assert_eq!(*needs == Needs::Role(Role::Admin), admin, "{path}");
        }
        assert!(row("/ternion.v1.AdminService/Shutdown").is_none());
    }
}
