use super::*;

/// `a` for a command, `a>` where its output goes elsewhere, `a&` where both streams are one, `[a;b]` for a list,
/// `(a|b)` for a pipe, `$a` for a substitution, `<` for a here document.
fn drawn(nodes: &[Node]) -> String {
    let marks = |output: &Output| {
        format!("{}{}", if output.is_elsewhere { ">" } else { "" }, if output.is_merged { "&" } else { "" })
    };
    let drawn_node = |node: &Node| match node {
        Node::Simple(simple) => {
            let substituted: String =
                simple.substituted.iter().map(|node| format!("${}", drawn(std::slice::from_ref(node)))).collect();
            let input = if simple.input.is_some() { "<" } else { "" };
            format!("{}{substituted}{input}{}", simple.words.join(" "), marks(&simple.output))
        }
        Node::List(nodes, output) => format!("[{}]{}", drawn(nodes), marks(output)),
        Node::Pipe(nodes) => {
            format!("({})", nodes.iter().map(|node| drawn(std::slice::from_ref(node))).collect::<Vec<_>>().join("|"))
        }
    };
    nodes.iter().map(drawn_node).collect::<Vec<_>>().join(";")
}

#[test]
fn a_command_is_read_as_a_shell_reads_it() {
    for (text, expected) in [
        ("a b", "a b"),
        ("a; b & c && d || e", "a;b;c;d;e"),
        ("a | b |& c", "(a|b&|c)"),
        ("a > f; b >> f 2>&1; c 2>&1; d 2>/dev/null; e &> f; f >&2", "a>;b>;c&;d;e>;f>"),
        ("a 2>&1 > f", "a>&"),
        ("(a; b) | c", "([a;b]|c)"),
        ("{ a; b; } > f", "[a;b]>"),
        ("if a; then b; elif c; then d; else e; fi | f", "([a;b;c;d;e]|f)"),
        ("while a; do b; done > f", "[a;b]>"),
        ("for x in $(a) 1; do b $x; done", "[$a;b $x]"),
        ("case $x in a|b) c;; *) d; e;; esac; f", "[c;d;e];f"),
        ("a $(b | c) \"$(d 'x)')\" `e`", "a $() $() $()$(b|c)$d x)$e"),
        ("a $((1 + 2)) ${x:-y z}", "a $() ${x:-y z}"),
        ("a 'b;c' \"d|e\" f\\;g # h; i", "a b;c d|e f;g"),
        ("a <<EOF\nx; y\nEOF\nb", "a<;b"),
        ("a <<-'E'\n\tx\n\tE\nb", "a<;b"),
        ("f() { a; }; f", ";[a];f"),
        ("[[ -f x && ( -d y || z ) ]] && a", "[[ -f x -d y z ]];a"),
        ("a <(b) >f", "a /dev/fd/63$b>"),
        ("! a", "a"),
        ("", ""),
        ("'unclosed", "unclosed"),
        ("$(", "$()"),
        (") a", "a"),
        ("a |", "a"),
        ("fi; a", "a"),
    ] {
        assert_eq!(drawn(&read(text)), expected, "{text}");
    }
}

#[test]
fn deep_nesting_ends() {
    for text in [
        "(".repeat(100_000),
        "$(".repeat(10_000),
        "{ ".repeat(100_000),
        "if ".repeat(100_000),
        "case x in a) ".repeat(9_999),
    ] {
        read(&text);
    }
}
