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
