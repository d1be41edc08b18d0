use super::*;

fn digest(data: &[u8]) -> String {
    let mut digest = Digest::new();
    digest.large("w", data, 8);
    digest.finish()
}

#[test]
fn small_files_count_whole_and_large_ones_by_blocks() {
    let small = vec![0; 1 << 20];
    for at in [0, 8, 77_777, small.len() - 1] {
        let mut changed = small.clone();
        changed[at] = 1;
        assert_ne!(digest(&changed), digest(&small), "byte {at}");
    }
    let large = vec![0; 40 << 20];
    let first = digest(&large);
    // The header, both ends of the data, and any stretch wider than the gap between blocks.
    let middle = large.len() / 2;
    for range in [
        3..4,
        8..9,
        middle..middle + (256 << 10),
        large.len() - 1..large.len(),
    ] {
        let mut changed = large.clone();
        changed[range.clone()].fill(1);
        assert_ne!(digest(&changed), first, "bytes {range:?}");
    }
    assert_ne!(digest(&large[..large.len() - 1]), first);
}

#[test]
fn where_one_file_ends_and_the_next_begins_counts() {
    let of = |files: [(&str, &[u8]); 2]| {
        let mut digest = Digest::new();
        files
            .iter()
            .for_each(|(name, bytes)| digest.small(name, bytes));
        digest.finish()
    };
    assert_ne!(
        of([("a", b"xy"), ("b", b"z")]),
        of([("a", b"x"), ("b", b"yz")])
    );
}
