use super::*;

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, TemplateError> {
    ChatTemplate::new(source.to_owned(), "<s>".to_owned(), "</s>".to_owned())?
        .render(messages, true)
}

#[test]
fn the_2b_4t_template_writes_what_its_model_card_shows() {
    let chat = [
        message("system", "You are a helpful assistant."),
        message("user", "  Hi\n"),
    ];
    assert_eq!(
        render(BITNET_2B_4T, &chat).unwrap(),
        "System: You are a helpful assistant.<|eot_id|>User: Hi<|eot_id|>Assistant: "
    );
}

#[test]
fn white_space_goes_where_transformers_drops_it() {
    let source = "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  \
                  {% endif %}\n{% endfor %}\nend\n";
    let text = render(source, &[message("user", "a"), message("user", "b")]).unwrap();
    assert_eq!(text, "a\nb\nend");
}

#[test]
fn python_methods_and_loop_controls_work() {
    let source = "{% for m in messages %}{% if m['content'].startswith('x') %}{% continue %}\
                  {% endif %}{{ m['content'].strip().upper() }}{% endfor %}{{ bos_token }}";
    let text = render(source, &[message("user", "xa"), message("user", " b ")]).unwrap();
    assert_eq!(text, "B<s>");
}

#[test]
fn a_template_speaks_for_itself() {
    let source = "{{ raise_exception('roles must alternate, not ' + messages[0].role) }}";
    let error = render(source, &[message("tool", "")]).unwrap_err();
    assert!(matches!(error, TemplateError::Refused(_)));
    assert_eq!(error.to_string(), "roles must alternate, not tool");
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    assert!(matches!(render(source, &[]), Err(TemplateError::TooLong)));
}

#[test]
fn what_a_template_does_wrong_is_said() {
    let error = render("{% for %}", &[]).unwrap_err();
    assert!(matches!(error, TemplateError::Syntax(_)), "{error}");
    let error = render("{{ messages[0].role.nothing.more }}", &[message("a", "")]).unwrap_err();
    assert!(matches!(error, TemplateError::Failed(_)), "{error}");
    assert!(render("{{ nothing_of_the_kind() }}", &[]).is_err());
}

#[test]
fn json_is_written_as_python_writes_it() {
    let source = "{{ {'a': [1, 'é<>&'], 'b': none} | tojson }}{{ [1] | tojson(indent=2) }}";
    assert_eq!(
        render(source, &[]).unwrap(),
        "{\"a\": [1, \"é<>&\"], \"b\": null}[\n  1\n]"
    );
}

#[test]
fn a_template_cannot_ask_for_a_huge_string() {
    for source in [
        "{{ 'x' * 1000000000000 }}",
        "{{ range(100000000000)|list }}",
    ] {
        assert!(render(source, &[]).is_err(), "{source}");
    }
}

/// Every form of expression and statement, with and without the checks that `watched.rs` puts in.
#[test]
fn checks_change_nothing_but_what_they_are_for() {
    let sources = [
        BITNET_2B_4T,
        "{% set x = messages %}{{ x[0].role }}{{ x[-1]['content'] }}{{ x[1:] | length }}{{ x[::-1][0].role }}",
        "{% set ns = namespace(n=1, all=[]) %}{% for m in messages %}{% set ns.n = ns.n * 2 + loop.index %}\
         {% set ns.all = ns.all + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.all | join('|') }}{{ ns.all }}",
        "{% set a = 3 %}{% set b = 4 %}{{ a * b }}{{ -a * b }}{{ (a + b) * a }}{{ a * (b - a) * 2 }}{{ 2 ** a * b }}",
        "{% set a = 3 %}{{ 'x' * a }}{{ a * 'ab' }}{{ '-' * (a if a > 2 else 1) }}{{ '=' * messages | length }}",
        "{% set s = ' a,b ' %}{{ s.strip().split(',')[1] * 3 }}{{ s | trim | upper ~ s.strip() ~ (1 + 2) }}{{ s|length*2 }}",
        "{% set x, y = 1, [2, 3] %}{{ x }}{{ y }}{{ (x, y) }}{{ y[0] * x }}{{ {'k': y, x: 1} }}{{ x if y else s }}",
        "{% macro m(a, b=2, c='|') %}{{ a }}{{ b }}{{ c }}{{ caller() if caller else '' }}{% endmacro %}\
         {{ m(1) }}{{ m(1, c='x|y') }}{% call m([1], b={'a': 1}) %}in|side{% endcall %}",
        "{% set x %}a|b{{ 1 }}{% endset %}{{ x }}{% set y | upper | replace('A', 'c') %}a{{ x }}{% endset %}{{ y }}",
        "{% for k, v in {'a': 1, 'b': [2]} | items if v is number or k in ['b'] %}{{ loop.index }}{{ k ~ v }}{% else %}-\
         {% endfor %}{% for m in messages recursive %}{{ m.role }}{% if loop.depth < 3 %}{{ loop(messages[1:]) }}{% endif %}\
         {% endfor %}",
        "{% with a = [1, 2], b = a if a is defined else 3 %}{{ a }}{{ b }}{% endwith %}{% do namespace() %}",
        "{% filter upper %}{% for m in messages %}{{ m.content | default('|', true) }}{% endfor %}{% endfilter %}",
        "{% raw %}{{ x | y }}{% endraw %}{# {{ x | #}{% set x = 'a' %}{{ x\n | upper\n  | lower }}{{ '|' + x|upper + '|' }}",
        "{% set x = 5 %}{{ x is odd and not x is even }}{{ x == 5 != (x < 3) }}{{ x in [5] }}{{ x not in (1, 2) }}{{ 1 < x < 9 }}",
        "{% set e = 'ü' %}{{ e }}{{ 'ß|' ~ e | upper }}{% set ns = namespace() %}{% set ns.o = '=' ~ e == 'ü' %}{{ ns.o }}",
        "{% set x = [1, [2]] %}{{ x | map('string') | list | tojson }}{{ x | tojson(indent=2) }}{{ x | first * 2 }}",
    ];
    let chat = [message("user", " Hi, you"), message("assistant", "a|b")];
    let mut wrong = Vec::new();
    for source in sources {
        let bare = engine();
        let context = context! {
            messages => chat
                .iter()
                .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
                .collect::<Vec<Value>>(),
            add_generation_prompt => true,
            bos_token => "<s>",
            eos_token => "</s>",
        };
        let want = bare
            .render_named_str("chat", source, context)
            .map_err(|e| format!("{e:#}"));
        let got = render(source, &chat).map_err(|e| e.to_string());
        if want.is_err() || got != want {
            let watched =
                watched::watched(source, syntax()).unwrap_or_else(|_| "refused".to_owned());
            wrong.push(format!("{source}\n{watched}\n{want:?}\n{got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_list_is_not_multiplied() {
    for source in [
        "{{ [1] * 2 }}",
        "{{ 2 * (messages) }}",
        "{{ (1 if x else [1]) * 2 }}",
        "{{ (messages)[0] * 2 }}",
    ] {
        assert!(render(source, &[]).is_err(), "{source}");
    }
}
