//! pinned-host
