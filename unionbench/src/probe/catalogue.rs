//! Operation × file system → kernel functions, best candidate first.
//!
//! Names differ between kernel versions and compilers inline what they like,
//! so each role has alternatives. They were read from the sources of Linux
//! 6.1 to 6.18 and, for aufs, from a 6.1.192 kernel's symbol table.

use unionbench_common::{Counter, Operation};

/// Whose functions are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// No union: system calls, tracepoints and the VFS only.
    None,
    Overlayfs,
    Aufs,
    /// Any union served by a FUSE daemon.
    Fuse,
    /// The same, served by the bundled daemon, which is watched too.
    Bundled,
}

impl Family {
    /// The family of a backend by the name of its kind.
    pub fn of_backend(kind: &str) -> Self {
        match kind {
            "overlayfs" => Self::Overlayfs,
            "aufs" => Self::Aufs,
            "bundled" => Self::Bundled,
            "fuse-overlayfs" | "unionfs-fuse" | "mergerfs" => Self::Fuse,
            _ => Self::None,
        }
    }

    /// The name in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "any",
            Self::Overlayfs => "overlayfs",
            Self::Aufs => "aufs",
            Self::Fuse => "fuse",
            Self::Bundled => "bundled",
        }
    }

    /// Whether a daemon serves the union.
    pub fn is_fuse(self) -> bool {
        matches!(self, Self::Fuse | Self::Bundled)
    }

    /// Whether the probes of `part` belong to a session for this family.
    pub(super) fn takes(self, part: Self) -> bool {
        part == self || part == Self::None || (part == Self::Fuse && self.is_fuse())
    }

    /// Whether the function watched for an operation runs whenever the operation
    /// does. aufs goes past its own copying where files can be cloned.
    pub fn always_runs(self, operation: &str) -> bool {
        self != Self::Aufs || operation != Operation::CopyUpData.name()
    }

    /// Whether a kernel function belongs to the file system, by its name.
    pub fn owns(self, function: &str) -> bool {
        let prefixes: &[&str] = match self {
            Self::None => &[],
            Self::Overlayfs => &["ovl_"],
            Self::Aufs => &["aufs_", "au_", "vfsub_"],
            Self::Fuse | Self::Bundled => &["fuse_"],
        };
        prefixes.iter().any(|prefix| function.starts_with(prefix))
    }
}

/// One operation that can be observed by a function's entry and return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    pub operation: Operation,
    pub family: Family,
    /// Kernel functions, best first.
    pub candidates: &'static [&'static str],
    /// The stem of the names of its programs in the object.
    pub(super) programs: &'static str,
}

const fn role(
    operation: Operation,
    family: Family,
    programs: &'static str,
    candidates: &'static [&'static str],
) -> Role {
    Role { operation, family, candidates, programs }
}

use Family::{Aufs, Fuse, None, Overlayfs};
use Operation::{
    CopyUp, CopyUpClone, CopyUpCopy, CopyUpCreate, CopyUpData, CopyUpLock, CopyUpMetadata,
    CopyUpRename, CopyUpSplice, CopyUpWorker, CopyUpWrite, CopyUpXattr, Fsync, LayerLookup, Lookup,
    ReaddirMerge, Revalidate, Whiteout,
};

/// Every role. An operation that a kernel does in one of several ways stands
/// once for each, with programs of its own.
pub const ROLES: &[Role] = &[
    role(Lookup, Overlayfs, "lookup", &["ovl_lookup"]),
    // Called once for each layer that is asked, and for each component of a
    // redirect; the others are its callees, where it was inlined.
    role(
        LayerLookup,
        Overlayfs,
        "layer",
        &["ovl_lookup_layer", "ovl_lookup_single", "ovl_lookup_positive_unlocked"],
    ),
    role(
        Revalidate,
        Overlayfs,
        "revalidate",
        &["ovl_dentry_revalidate", "ovl_dentry_revalidate_common"],
    ),
    // `ovl_copy_up_flags` is entered also when nothing is left to copy, so it
    // stands last.
    role(CopyUp, Overlayfs, "copy_up", &["ovl_copy_up_one", "ovl_do_copy_up", "ovl_copy_up_flags"]),
    role(CopyUpData, Overlayfs, "copy_up_data", &["ovl_copy_up_file", "ovl_copy_up_data"]),
    role(
        CopyUpMetadata,
        Overlayfs,
        "copy_up_metadata",
        &["ovl_copy_up_metadata", "ovl_copy_up_inode", "ovl_set_attr"],
    ),
    role(CopyUpXattr, Overlayfs, "copy_up_xattr", &["ovl_copy_xattr"]),
    role(CopyUpLock, Overlayfs, "copy_up_lock", &["ovl_copy_up_start"]),
    // Without a name where the backing file system can (`O_TMPFILE`), else in
    // the work directory.
    role(
        CopyUpCreate,
        Overlayfs,
        "copy_up_create",
        &["kernel_tmpfile_open", "backing_tmpfile_open", "vfs_tmpfile_open"],
    ),
    role(CopyUpCreate, Overlayfs, "copy_up_temp", &["ovl_create_temp"]),
    role(CopyUpClone, Overlayfs, "copy_up_clone", &["do_clone_file_range", "vfs_clone_file_range"]),
    role(CopyUpSplice, Overlayfs, "copy_up_splice", &["do_splice_direct"]),
    role(CopyUpCopy, Overlayfs, "copy_up_copy", &["vfs_copy_file_range"]),
    role(CopyUpRename, Overlayfs, "copy_up_rename", &["vfs_rename"]),
    role(CopyUpRename, Overlayfs, "copy_up_link", &["vfs_link"]),
    // `ovl_whiteout` cannot be traced on Debian's kernels.
    role(Whiteout, Overlayfs, "whiteout", &["ovl_cleanup_and_whiteout", "ovl_whiteout"]),
    role(
        ReaddirMerge,
        Overlayfs,
        "readdir_merge",
        &["ovl_dir_read_merged", "ovl_cache_get", "ovl_iterate"],
    ),
    // open() of a name that is not cached does not pass `aufs_lookup`.
    role(Lookup, Aufs, "lookup", &["au_lkup_dentry", "aufs_lookup"]),
    // Also once for each name of a whiteout that is looked for.
    role(LayerLookup, Aufs, "layer", &["vfsub_lookup_one_len", "vfsub_lkup_one"]),
    // Not called with `udba=none`.
    role(Revalidate, Aufs, "revalidate", &["aufs_d_revalidate"]),
    // The caller's function, which may wait for a worker of the kernel, and what
    // the worker (or the caller) then does. The first candidate is entered for
    // directories too. Both take a `struct au_cp_generic *`, which joins them.
    role(CopyUp, Aufs, "aufs_copy_up", &["au_do_sio_cpup_simple", "au_sio_cpup_simple"]),
    role(CopyUpWorker, Aufs, "copy_up_worker", &["au_cpup_simple"]),
    role(CopyUpCreate, Aufs, "copy_up_create", &["vfsub_create"]),
    role(CopyUpCreate, Aufs, "copy_up_temp", &["vfsub_mkdir"]),
    role(CopyUpData, Aufs, "copy_up_data", &["au_copy_file"]),
    role(CopyUpClone, Aufs, "copy_up_clone", &["vfs_clone_file_range", "do_clone_file_range"]),
    role(CopyUpWrite, Aufs, "copy_up_write", &["vfsub_write_k"]),
    role(CopyUpMetadata, Aufs, "copy_up_metadata", &["cpup_iattr"]),
    role(CopyUpXattr, Aufs, "copy_up_xattr", &["au_cpup_xattr"]),
    role(CopyUpRename, Aufs, "copy_up_rename", &["vfsub_rename"]),
    role(CopyUpRename, Aufs, "copy_up_link", &["vfsub_link"]),
    role(Whiteout, Aufs, "whiteout", &["au_wh_create", "link_or_create_wh"]),
    role(ReaddirMerge, Aufs, "readdir_merge", &["au_vdir_init", "aufs_iterate_shared"]),
    role(Lookup, Fuse, "lookup", &["fuse_lookup"]),
    role(Revalidate, Fuse, "revalidate", &["fuse_dentry_revalidate"]),
    role(ReaddirMerge, Fuse, "readdir_merge", &["fuse_readdir"]),
    // The one is inlined into the other on Debian's kernels, and overlayfs calls
    // the other.
    role(Fsync, None, "fsync", &["vfs_fsync_range"]),
    role(Fsync, None, "fsync_whole", &["vfs_fsync"]),
];

/// A kernel function of which only the calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CountedFunction {
    pub counter: Counter,
    pub family: Family,
    pub candidates: &'static [&'static str],
    /// The stem of the names of its programs in the object.
    pub programs: &'static str,
}

/// Every function whose calls are counted.
pub(super) const COUNTED: &[CountedFunction] = &[
    counted(Counter::XattrGets, None, "xattr_get", &["vfs_getxattr"]),
    counted(Counter::XattrSets, None, "xattr_set", &["vfs_setxattr"]),
    counted(Counter::XattrLists, None, "xattr_list", &["vfs_listxattr"]),
    counted(Counter::XattrRemoves, None, "xattr_remove", &["vfs_removexattr"]),
    counted(Counter::FileSystemSyncs, None, "sync_fs", &["sync_filesystem"]),
    counted(Counter::FuseBackground, Fuse, "fuse_background", &["fuse_simple_background"]),
];

const fn counted(
    counter: Counter,
    family: Family,
    programs: &'static str,
    candidates: &'static [&'static str],
) -> CountedFunction {
    CountedFunction { counter, family, candidates, programs }
}

/// FUSE requests on kernels without a tracepoint for them (before Linux 6.11).
pub(super) const FUSE_REQUEST: Role =
    role(Operation::FuseRequest, Fuse, "fuse_request", &["fuse_simple_request"]);

/// The roles that a session for this family tries: its own, and the VFS's.
pub(super) fn roles_of(family: Family) -> impl Iterator<Item = &'static Role> {
    ROLES.iter().filter(move |role| family.takes(role.family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_candidates_and_stands_once_in_its_family() {
        for (index, role) in ROLES.iter().enumerate() {
            assert!(!role.candidates.is_empty(), "{role:?}");
            let twin =
                |other: &Role| other.programs == role.programs && other.family == role.family;
            assert!(!ROLES[index + 1..].iter().any(twin), "{role:?}");
        }
    }

    #[test]
    fn every_kind_of_backend_has_its_family() {
        let families = crate::backend::KINDS.map(Family::of_backend);
        let expected = [
            Family::None,
            Family::Overlayfs,
            Family::Aufs,
            Family::Bundled,
            Family::Fuse,
            Family::Fuse,
            Family::Fuse,
            Family::None,
        ];
        assert_eq!(families, expected);
    }

    /// Function names of a kernel, resolved for one family: what each role
    /// would be attached to, in the order of the catalogue.
    fn check(names: &str, family: Family, expected: &[(Operation, Option<&str>)]) {
        let functions: Vec<_> = names.lines().map(|name| (1, name)).collect();
        let table = super::super::kallsyms::Kallsyms::for_test(&functions);
        let resolved: Vec<_> = ROLES
            .iter()
            .filter(|role| role.family == family)
            .map(|role| {
                let mut candidates = role.candidates.iter();
                (role.operation, candidates.find_map(|candidate| table.resolve(candidate)))
            })
            .collect();
        assert_eq!(resolved, expected);
    }

    #[test]
    fn roles_resolve_on_linux_6_1_with_aufs() {
        let names = include_str!("fixtures/linux-6.1-aufs.names");
        check(
            names,
            Family::Aufs,
            &[
                (Lookup, Some("au_lkup_dentry")),
                (LayerLookup, Some("vfsub_lookup_one_len")),
                (Revalidate, Some("aufs_d_revalidate")),
                (CopyUp, Some("au_do_sio_cpup_simple")),
                (CopyUpWorker, Some("au_cpup_simple")),
                (CopyUpCreate, Some("vfsub_create")),
                (CopyUpCreate, Some("vfsub_mkdir")),
                (CopyUpData, Some("au_copy_file")),
                (CopyUpClone, Some("vfs_clone_file_range")),
                (CopyUpWrite, Some("vfsub_write_k")),
                (CopyUpMetadata, Some("cpup_iattr")),
                (CopyUpXattr, Some("au_cpup_xattr")),
                (CopyUpRename, Some("vfsub_rename")),
                (CopyUpRename, Some("vfsub_link")),
                (Whiteout, Some("au_wh_create")),
                (ReaddirMerge, Some("au_vdir_init")),
            ],
        );
        check(
            names,
            Family::Fuse,
            &[
                (Lookup, Some("fuse_lookup")),
                (Revalidate, Some("fuse_dentry_revalidate")),
                (ReaddirMerge, Some("fuse_readdir")),
            ],
        );
    }

    /// fentry is offered a function that has a type, by its very name.
    #[test]
    fn what_aufs_roles_resolve_to_has_types_on_linux_6_1() {
        let names = include_str!("fixtures/linux-6.1-aufs.names");
        let typed: Vec<_> = include_str!("fixtures/linux-6.1-aufs.btf.names").lines().collect();
        let functions: Vec<_> = names.lines().map(|name| (1, name)).collect();
        let table = super::super::kallsyms::Kallsyms::for_test(&functions);
        let roles: Vec<_> = ROLES.iter().filter(|role| role.family == Family::Aufs).collect();
        assert!(!roles.is_empty());
        for role in roles {
            let symbol = role.candidates.iter().find_map(|candidate| table.resolve(candidate));
            assert!(symbol.is_some_and(|symbol| typed.contains(&symbol)), "{role:?}: {symbol:?}");
        }
        // A function that was cloned has no type under its own name.
        assert!(!typed.contains(&"au_cpup_single"));
    }

    #[test]
    fn roles_of_aufs_resolve_to_nothing_where_it_is_not() {
        let names = include_str!("fixtures/linux-6.18.names");
        check(
            names,
            Family::Aufs,
            &[
                (Lookup, Option::None),
                (LayerLookup, Option::None),
                (Revalidate, Option::None),
                (CopyUp, Option::None),
                (CopyUpWorker, Option::None),
                (CopyUpCreate, Option::None),
                (CopyUpCreate, Option::None),
                (CopyUpData, Option::None),
                // The VFS's own, which no one but a copy-up's worker is seen to call.
                (CopyUpClone, Some("vfs_clone_file_range")),
                (CopyUpWrite, Option::None),
                (CopyUpMetadata, Option::None),
                (CopyUpXattr, Option::None),
                (CopyUpRename, Option::None),
                (CopyUpRename, Option::None),
                (Whiteout, Option::None),
                (ReaddirMerge, Option::None),
            ],
        );
    }

    #[test]
    fn a_function_belongs_to_its_file_system_only() {
        assert!(Family::Overlayfs.owns("ovl_lookup"));
        assert!(!Family::Overlayfs.owns("fuse_lookup"));
        assert!(!Family::None.owns("ovl_lookup"));
        assert!(Family::Aufs.owns("au_lkup_dentry"));
        assert!(!Family::Aufs.owns("audit_log"));
    }
}
