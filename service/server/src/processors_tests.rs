use super::*;

/// A machine as Linux shows it: online processors, and a list for each node.
fn sysfs(online: &str, nodes: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let write = |path: String, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
        fs::write(path, format!("{text}\n")).expect("writable");
    };
    write("devices/system/cpu/online".to_owned(), online);
    let ids = (0..nodes.len()).map(|id| id.to_string());
    let ids: Vec<String> = ids.collect();
    write("devices/system/node/online".to_owned(), &ids.join(","));
    for (id, list) in nodes.iter().enumerate() {
        write(format!("devices/system/node/node{id}/cpulist"), list);
    }
    dir
}

fn processors(online: &str, nodes: &[&str], allowed: &str, budget: usize) -> Processors {
    let allowed = parse_list(allowed).expect("a list");
    Processors::read(sysfs(online, nodes).path(), allowed, budget)
}

fn threads(processors: &Processors) -> (usize, Limit, Vec<usize>, bool) {
    let placement = processors.place(Wanted::default());
    (
        placement.threads,
        placement.limit,
        placement.nodes,
        placement.is_pinned,
    )
}

const TWO_NODES: &[&str] = &["0-7", "8-15"];

#[test]
fn one_node_has_as_many_threads_as_affinity_and_quota_allow() {
    let machine = processors("0-7", &["0-7"], "0-7", 8);
    assert_eq!(threads(&machine), (8, Limit::Machine, vec![], false));
    // Three of eight, for this process alone as far as can be told.
    let cpuset = processors("0-7", &["0-7"], "2,4-5", 3);
    assert_eq!(threads(&cpuset), (3, Limit::Affinity, vec![], true));
    // A quota of 2.9 processors is the standard library's 2.
    let quota = processors("0-7", &["0-7"], "0-7", 2);
    assert_eq!(threads(&quota), (2, Limit::Quota, vec![], false));
    let both = processors("0-7", &["0-7"], "0-3", 2);
    assert_eq!(threads(&both), (2, Limit::Quota, vec![], false));
}

#[test]
fn threads_that_fit_a_node_stay_there() {
    let quota = processors("0-15", TWO_NODES, "0-15", 6);
    assert_eq!(threads(&quota), (6, Limit::Quota, vec![0], false));
    let placement = quota.place(Wanted::default());
    assert_eq!(placement.processors, [0, 1, 2, 3, 4, 5, 6, 7]);
    // The cpuset has more of the second node; the first has no room for three.
    let cpuset = processors("0-15", TWO_NODES, "0-1,8-12", 3);
    let placement = cpuset.place(Wanted::default());
    assert_eq!((placement.threads, &placement.nodes[..]), (3, &[1][..]));
    assert_eq!(placement.processors, [8, 9, 10, 11, 12]);
    // All of one node, and nobody else's: pinned.
    let node = processors("0-15", TWO_NODES, "8-15", 8);
    assert_eq!(threads(&node), (8, Limit::Affinity, vec![], true));
}

#[test]
fn threads_of_several_nodes_are_as_many_on_each() {
    let machine = processors("0-15", TWO_NODES, "0-15", 16);
    assert_eq!(threads(&machine), (16, Limit::Machine, vec![0, 1], false));
    // 13 by quota fit no node, and are not the same number on two.
    let quota = processors("0-15", TWO_NODES, "0-15", 13);
    assert_eq!(threads(&quota), (12, Limit::Nodes, vec![0, 1], false));
    let placement = quota.place(Wanted::default());
    assert_eq!(placement.processors[..6], [0, 8, 1, 9, 2, 10]);
    let cpuset = processors("0-15", TWO_NODES, "0-3,8-11", 8);
    assert_eq!(threads(&cpuset), (8, Limit::Affinity, vec![0, 1], true));
}

#[test]
fn what_is_set_is_done() {
    let machine = processors("0-15", TWO_NODES, "0-15", 16);
    let place = |wanted| machine.place(wanted);
    let set = place(Wanted {
        threads: Some(13),
        ..Wanted::default()
    });
    assert_eq!((set.threads, set.limit), (13, Limit::Setting));
    let pinned = Wanted {
        pinning: Pinning::Always,
        ..Wanted::default()
    };
    assert!(place(pinned).is_pinned);
    let too_many = Wanted {
        threads: Some(17),
        ..pinned
    };
    assert!(!place(too_many).is_pinned, "two would share a processor");
    let off = place(Wanted {
        numa: Numa::Never,
        ..Wanted::default()
    });
    assert_eq!((off.threads, &off.nodes[..]), (16, &[][..]));
    let at_most = |most| {
        place(Wanted {
            most: Some(most),
            ..Wanted::default()
        })
    };
    assert_eq!((at_most(4).threads, at_most(4).limit), (4, Limit::Preset));
    assert_eq!(
        (at_most(99).threads, at_most(99).limit),
        (16, Limit::Machine)
    );
    let cpuset = processors("0-7", &["0-7"], "0-3", 4);
    let off = Wanted {
        pinning: Pinning::Never,
        ..Wanted::default()
    };
    assert!(!cpuset.place(off).is_pinned);
}

#[test]
fn memory_without_processors_is_no_node_to_compute_on() {
    // Memory on an expansion card, and a node that this process may not use.
    let machine = processors("0-15", &["0-7", "8-15", ""], "0-7", 8);
    assert_eq!(machine.nodes.len(), 1);
}

#[test]
fn a_machine_that_tells_nothing_still_computes() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let unknown = Processors::read(empty.path(), Vec::new(), 4);
    assert_eq!(threads(&unknown), (4, Limit::Machine, vec![], false));
    for bad in ["x", "0-", "-3", "0-99999999999", "3-1,", "0-16384"] {
        let machine = processors(bad, &[bad, bad], "0-3", 4);
        assert_eq!(threads(&machine).0, 4, "{bad}");
        assert!(machine.nodes.is_empty(), "{bad}");
    }
    assert_eq!(parse_list(""), Some(vec![]));
    assert_eq!(parse_list("0-2,7"), Some(vec![0, 1, 2, 7]));
}

#[test]
fn a_pinned_thread_is_where_it_was_placed() {
    let here = Processors::of_this_process();
    assert_eq!(here.budget, available_parallelism().map_or(1, usize::from));
    let wanted = Wanted {
        threads: Some(1),
        pinning: Pinning::Always,
        ..Wanted::default()
    };
    let placement = here.place(wanted);
    let last = *placement.processors.first().expect("Linux tells");
    let affinity = std::thread::spawn(move || {
        placement.pin(0);
        sched_getaffinity(None).expect("Linux tells")
    });
    let affinity = affinity.join().expect("it ends");
    assert_eq!(affinity.count(), 1);
    assert!(affinity.is_set(last));
}
