// SPDX-License-Identifier: GPL-2.0

//! Errors that Linux 6.18's `kernel::error::code` does not name.

use super::bindings;
use kernel::error::Error;

/// `EOPNOTSUPP`: the host cannot do what was asked for.
pub fn not_supported() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as i32))
}
