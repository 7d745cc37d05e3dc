//! The names of all that a guest can import. Names only: whether the types fit is the link check's
//! to say, which is made with the linker that instantiates the guest later.

/// The offered interfaces, for a message.
pub(super) const OFFERED: &str = "`wasi_snapshot_preview1` to core modules; `wasi:cli`, `wasi:clocks`, `wasi:filesystem`, `wasi:io`, \
                                  `wasi:random` and `wasi:sockets` of version 0.2 and `wasmill:task/host@0.1.0` to components";

const WASI_01: &str = "wasi_snapshot_preview1";

/// The functions of WASI 0.1, which is finished and never changes.
const WASI_01_FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Interfaces of components with the version line that they are offered in.
const INTERFACES: [(&str, &str); 28] = [
    ("wasi:cli/environment", "0.2"),
    ("wasi:cli/exit", "0.2"),
    ("wasi:cli/stderr", "0.2"),
    ("wasi:cli/stdin", "0.2"),
    ("wasi:cli/stdout", "0.2"),
    ("wasi:cli/terminal-input", "0.2"),
    ("wasi:cli/terminal-output", "0.2"),
    ("wasi:cli/terminal-stderr", "0.2"),
    ("wasi:cli/terminal-stdin", "0.2"),
    ("wasi:cli/terminal-stdout", "0.2"),
    ("wasi:clocks/monotonic-clock", "0.2"),
    ("wasi:clocks/wall-clock", "0.2"),
    ("wasi:filesystem/preopens", "0.2"),
    ("wasi:filesystem/types", "0.2"),
    ("wasi:io/error", "0.2"),
    ("wasi:io/poll", "0.2"),
    ("wasi:io/streams", "0.2"),
    ("wasi:random/insecure", "0.2"),
    ("wasi:random/insecure-seed", "0.2"),
    ("wasi:random/random", "0.2"),
    ("wasi:sockets/instance-network", "0.2"),
    ("wasi:sockets/ip-name-lookup", "0.2"),
    ("wasi:sockets/network", "0.2"),
    ("wasi:sockets/tcp", "0.2"),
    ("wasi:sockets/tcp-create-socket", "0.2"),
    ("wasi:sockets/udp", "0.2"),
    ("wasi:sockets/udp-create-socket", "0.2"),
    ("wasmill:task/host", "0.1"),
];

/// Whether the host has this import of a core module.
pub(super) fn is_core_import(module: &str, name: &str) -> bool {
    module == WASI_01 && WASI_01_FUNCTIONS.binary_search(&name).is_ok()
}

/// Whether this function of WASI 0.1 cannot be called by a module without a memory.
pub(super) fn needs_memory(name: &str) -> bool {
    name != "proc_exit"
}

/// Whether the host has this interface, `wasi:cli/stdin@0.2.3` for instance. Any patch of the
/// version line will do: lines only ever add, and the link check finds what was added later than
/// this host was built.
pub(super) fn is_interface(name: &str) -> bool {
    let Some((interface, version)) = name.split_once('@') else { return false };
    INTERFACES.iter().any(|(offered, line)| *offered == interface && is_patch_of(line, version))
}

/// Whether `version` is one of WASI 0.2.
pub(super) fn is_version(version: &str) -> bool {
    is_patch_of("0.2", version)
}

fn is_patch_of(line: &str, version: &str) -> bool {
    version
        .strip_prefix(line)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Advice about unknown imports, where their names tell which toolchain they come from; begins
/// with a space.
pub(super) fn hint(unknown: &[String]) -> &'static str {
    const HINTS: [(&str, &str); 9] = [
        ("wasi_unstable.", " (this is WASI from before 0.1: build with a toolchain of this decade)"),
        ("wasi:http/", " (tasks have no network)"),
        ("wasi_snapshot_preview1.", " (these are no functions of WASI 0.1)"),
        ("__wbindgen", " (built for browsers by wasm-bindgen: build for `wasm32-wasip1` or `wasm32-wasip2`)"),
        ("./", " (built for a JavaScript host: build for `wasm32-wasip1` or `wasm32-wasip2`)"),
        ("gojs.", " (built for browsers: build with `GOOS=wasip1`)"),
        ("wasi.", " (built for threads: build without)"),
        ("env.", " (symbols that were not found when linking are imported from `env`)"),
        ("wasmill:", " (of another version of Wasmill's interface)"),
    ];
    let begins = |beginning: &str| unknown.iter().any(|name| name.starts_with(beginning));
    if unknown.iter().any(|name| name.starts_with("wasi:") && name.contains("@0.3")) {
        return " (WASI 0.3 is not supported: build for 0.2)";
    }
    HINTS.iter().find(|(beginning, _)| begins(beginning)).map_or("", |(_, hint)| hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_sorted_for_the_search() {
        assert!(WASI_01_FUNCTIONS.is_sorted());
        assert!(is_core_import(WASI_01, "fd_write"));
        assert!(is_core_import(WASI_01, "args_get"));
        assert!(is_core_import(WASI_01, "sock_shutdown"));
        assert!(!is_core_import(WASI_01, "thread_spawn"));
        assert!(!is_core_import("wasi_unstable", "fd_write"));
    }

    #[test]
    fn interfaces_match_by_version_line() {
        for offered in ["wasi:cli/stdin@0.2.0", "wasi:io/streams@0.2.12", "wasmill:task/host@0.1.0"] {
            assert!(is_interface(offered), "{offered}");
        }
        for other in [
            "wasi:cli/stdin",
            "wasi:cli/stdin@0.3.0",
            "wasi:cli/stdin@0.20.0",
            "wasi:cli/stdin@0.2.0-rc-2023-11-10",
            "wasi:cli/stdin@0.2.",
            "wasi:http/types@0.2.0",
            "wasmill:task/host@0.2.0",
        ] {
            assert!(!is_interface(other), "{other}");
        }
    }
}
