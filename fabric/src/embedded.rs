//! All four traits inside one process, on one data directory.
