//! On which nodes of a machine memory lies (NUMA).
//!
//! It stands in this crate since the system call takes `unsafe`, and what is
//! spread is what the [team](crate::team) reads.

use std::io;

/// Spreads memory over nodes, page by page, that this thread and those it will
/// start touch first from now on: their own, and files that they read into the
/// page cache. Memory that is there already stays where it is.
///
/// # Errors
///
/// If the kernel was built without nodes, a container's filter forbids it, or
/// none of the nodes is there.
pub fn interleave(nodes: &[usize]) -> io::Result<()> {
    let mask = mask(nodes)?;
    #[cfg(target_os = "linux")]
    return linux::set(linux::INTERLEAVE, &mask);
    #[cfg(not(target_os = "linux"))]
    return Err(io::Error::from(io::ErrorKind::Unsupported));
}

/// As many nodes as Linux can be built for.
const MAX_NODES: usize = 1024;

type Mask = [u64; MAX_NODES / 64];

fn mask(nodes: &[usize]) -> io::Result<Mask> {
    let mut mask: Mask = [0; MAX_NODES / 64];
    for &node in nodes {
        let Some(word) = mask.get_mut(node / 64) else {
            let reason = format!("no such node: {node}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        };
        *word |= 1 << (node % 64);
    }
    Ok(mask)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use super::{MAX_NODES, Mask};

    pub(super) const INTERLEAVE: libc::c_int = libc::MPOL_INTERLEAVE;

    pub(super) fn set(mode: libc::c_int, mask: &Mask) -> io::Result<()> {
        // The call reads one bit less than it is told.
        let bits = MAX_NODES as libc::c_ulong + 1;
        // SAFETY: the kernel reads `MAX_NODES` bits, which is what the mask
        // has, in words of 64 bits, which `unsigned long` has where nodes are;
        // it keeps no pointer.
        let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask.as_ptr(), bits) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(test)]
    pub(super) fn current() -> io::Result<(libc::c_int, Mask)> {
        let (mut mode, mut mask): (libc::c_int, Mask) = (0, [0; MAX_NODES / 64]);
        // SAFETY: the kernel writes one int and at most `MAX_NODES` bits; the
        // address of no page is asked about.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut mode,
                mask.as_mut_ptr(),
                MAX_NODES as libc::c_ulong + 1,
                std::ptr::null::<u8>(),
                0 as libc::c_ulong,
            )
        };
        match result {
            0 => Ok((mode, mask)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_bits() {
        assert_eq!(mask(&[]).expect("good"), [0; 16]);
        let some = mask(&[0, 3, 64]).expect("good");
        assert_eq!(some[..2], [0b1001, 1]);
        assert!(mask(&[1023]).is_ok() && mask(&[1024]).is_err());
    }

    /// Every machine has node 0. In threads of their own, whose policies end
    /// with them.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_takes_the_policy() {
        let set = std::thread::spawn(|| interleave(&[0]).and_then(|()| linux::current()));
        match set.join().expect("it ends") {
            Ok((mode, nodes)) => {
                assert_eq!(mode, linux::INTERLEAVE);
                assert_eq!(nodes, mask(&[0]).expect("good"));
            }
            // A kernel without nodes, an emulator, or a container's filter.
            Err(error) => assert!(
                [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()),
                "{error}"
            ),
        }
        let none = std::thread::spawn(|| interleave(&[]));
        none.join().expect("it ends").expect_err("no node");
    }
}
