//! Templates that would take all memory, all stack or all day: an error, and little of any of them.
//!
//! A program of its own, since it looks at the memory of the whole process.

use std::path::Path;

use ternion_model::{ChatMessage, Model, ModelError, TemplateError};

/// What the limits of a template come to, the engine's own copies included, with room to spare.
const MAX_PEAK_KIB: u64 = 512 << 10;

/// Of the threads that serve requests, unless they say otherwise.
const STACK_BYTES: usize = 2 << 20;

/// Growth by what a value shares, by what is repeated without being made, by nesting, and by what is never freed.
const GREEDY: &[&str] = &[
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x ~ '' }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}\
     {{ ns.x | tojson }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x ~ '' }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x | zip(ns.x) | list %}{% endfor %}\
     {{ ns.x | string }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}\
     {{ ','.join([ns.x]) }}",
    "{% macro m(x, n) %}{% if n > 0 %}{{ m([x, x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ m([1], 40) }}",
    "{% for a in [[[1, 1]]] %}{% for b in [[a, a]] %}{% for c in [[b, b] * 1000000000] %}{{ c }}{% endfor %}\
     {% endfor %}{% endfor %}",
    "{{ ([1] * 1000000000000) ~ '' }}",
    "{% set x = [1] %}{{ (x * 1000000000000) ~ '' }}",
    "{{ (messages[:1] * 1000000000000) | string }}",
    "{{ 'x' * 1000000000000 }}",
    "{% set x = 'xxxxxxxx' * 1000000 %}{{ [x, x, x, x] }}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "{% set x = 'x' * 10000000 %}{{ x.split('') | length }}{{ x | list | length }}{{ x | batch(1) | list | length }}",
    "{% set x = 'x' * 1000000 %}{{ x.replace('', x) }}",
    "{% set x = 'x' * 1000000 %}{{ x.join(x) }}",
    "{% set x = 'x' * 1000000 %}{{ x | join(x) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ range(100000000000) | list }}",
    "{{ [1] | tojson(indent=1000000000) }}{{ 'a\\nb' | indent(1000000000) }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}",
    "{% set ns = namespace(x={}) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for a in [messages] recursive %}{{ loop([messages]) }}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.a = [{'b': ns}] %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.a | default(ns, true) %}{% endset %}{{ ns }}",
    "{% set ns = namespace() %}{% macro m() %}{{ ns }}{% endmacro %}{% set ns.m = m %}{{ ns.m() }}",
    "{% set ns = namespace() %}{% for n in [ns, ns] %}{% set ns.l = loop %}{% endfor %}{{ ns }}",
];

#[test]
fn no_template_takes_what_it_likes() {
    // Before anything else, so that what is measured is ours.
    let before = peak_kib();
    for source in GREEDY {
        let ended = on_a_small_stack((*source).to_owned());
        assert!(
            matches!(
                ended,
                Err(TemplateError::Failed(_) | TemplateError::TooLong | TemplateError::ListProduct)
            ),
            "{source}: {ended:?}"
        );
        let peak = peak_kib() - before;
        assert!(peak < MAX_PEAK_KIB, "{source}: {peak} KiB");
    }
}

#[test]
fn what_is_nested_in_the_source_does_not_take_the_stack() {
    let many = |text: &str, around: usize| text.repeat((60 << 10) / text.len() - around);
    for source in [
        format!("{{{{ messages{} }}}}", many("+messages", 9)),
        format!("{{{{ 1{} }}}}", many("~1", 9)),
        format!("{{{{ messages{} }}}}", many("[0]", 9)),
        format!("{{{{ messages{} }}}}", many(".a", 9)),
        format!("{{{{ messages{} }}}}", many("|e", 9)),
        format!("{{{{ {}1 }}}}", many("-", 9)),
        format!("{{{{ {}1 }}}}", many("not ", 9)),
        format!("{{{{ {}1 }}}}", many("[", 9)),
        format!("{{{{ 1{} }}}}", many(" if 1", 9)),
        format!("{{{{ 1{} }}}}", many(" if 1 else 1", 9)),
        format!("{{{{ 1{} }}}}", many("**1", 9)),
        format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 3)),
        many("{% if 1 %}", 0),
        many("{% for a in 1 %}", 0),
    ] {
        // An answer of any kind: what it must not do is end the process.
        let _ = on_a_small_stack(source);
    }
}

#[test]
fn a_source_is_as_long_as_templates_are() {
    let ended = on_a_small_stack("x".repeat(65 << 10));
    assert!(
        matches!(ended, Err(TemplateError::TooLarge { bytes: 66560 })),
        "{ended:?}"
    );
}

fn on_a_small_stack(source: String) -> Result<String, TemplateError> {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let rendered = thread.spawn(move || render(&source)).unwrap().join();
    rendered.expect("an error is no panic")
}

fn render(source: &str) -> Result<String, TemplateError> {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf-bitnet/model");
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    std::fs::write(directory.path().join("chat_template.jinja"), source).unwrap();
    let model = match Model::open(directory.path()) {
        Ok(model) => model,
        Err(ModelError::Template(error)) => return Err(error),
        Err(other) => panic!("{other}"),
    };
    let message = ChatMessage {
        role: "user".to_owned(),
        content: "Hi".to_owned(),
    };
    model.chat.as_ref().unwrap().render(&[message], true)
}

/// The most memory that the process has had so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
