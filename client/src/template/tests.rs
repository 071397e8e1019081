//! Templates, data and outputs, as Go's text/template and docker's functions give them.

use super::{Data, LENGTH_MAX, Template};
use serde_json::{Value as Json, json};

fn container() -> Json {
    json!({
        "Id": "0123456789abcdef", "Name": "/web", "RestartCount": 3, "Ratio": 2.5, "Big": 18_446_744_073_709_551_615_u64,
        "State": {"Status": "running", "Running": true, "Pid": 4711, "Health": null},
        "Args": ["-c", "echo <hi> & 'bye'"],
        "Config": {"Labels": {"b": "2", "a": "1", "com.x-y": "z"}, "Env": ["A=1", "B=2"], "Entrypoint": null, "Cmd": []},
        "Mounts": [{"Source": "/src", "Destination": "/dst", "RW": true}, {"Source": "/b", "Destination": "/c", "RW": false}],
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2"}}, "Ports": {"80/tcp": null, "81/tcp": [{"HostPort": "8081"}]}},
    })
}

/// Returns the output, or the error.
fn run_on(template: &str, data: &Data<'_>) -> String {
    match Template::parse(template) {
        Ok(template) => template.execute(data).unwrap_or_else(|error| error.to_string()),
        Err(error) => error.to_string(),
    }
}

fn run(template: &str) -> String {
    run_on(template, &Data::object(&container()))
}

fn check(cases: &[(&str, &str)]) {
    for (template, output) in cases {
        assert_eq!(run(template), *output, "{template}");
    }
}

#[test]
fn fields_and_indexes_find_their_values() {
    check(&[
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{ .State.Status }} {{$.State.Pid}}", "running 4711"),
        ("{{.RestartCount}} {{.Ratio}} {{.Big}}", "3 2.5 18446744073709551615"),
        ("{{(index .Mounts 0).Source}}", "/src"),
        ("{{(index .Mounts 1).RW}}", "false"),
        ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "10.0.0.2"),
        ("{{(index .NetworkSettings.Networks \"bridge\").IPAddress}}", "10.0.0.2"),
        ("{{(index (index .NetworkSettings.Ports \"81/tcp\") 0).HostPort}}", "8081"),
        ("{{index .Config.Labels \"com.x-y\"}}", "z"),
        ("[{{index .Config.Labels \"absent\"}}]", "[]"),
        ("{{.Config.Labels.absent}}", "<no value>"),
        ("{{.NetworkSettings.Networks.absent.IPAddress}}", "<no value>"),
        ("{{index .Config.Env 1}} {{index .Name 0}}", "B=2 47"),
        ("{{with .State}}{{.Pid}}{{end}}", "4711"),
        ("{{with $x := .State}}{{$x.Pid}}{{end}}", "4711"),
        ("{{with .State.Health}}a{{else with .State}}{{.Pid}}{{end}}", "4711"),
    ]);
}

#[test]
fn values_print_as_in_go() {
    check(&[
        ("{{.Config.Labels}}", "map[a:1 b:2 com.x-y:z]"),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{.Config.Entrypoint}} {{.Config.Cmd}}", "[] []"),
        ("{{.State.Health}}", "<nil>"),
        ("{{.NetworkSettings.Ports}}", "map[80/tcp:[] 81/tcp:[map[HostPort:8081]]]"),
        ("{{1}} {{-2}} {{0x1F}} {{0o17}} {{0b11}} {{1_000}} {{017}} {{'a'}}", "1 -2 31 15 3 1000 15 97"),
        ("{{1.5}} {{1e3}} {{1e21}} {{1.5e-7}} {{.5}}", "1.5 1000 1e+21 1.5e-07 0.5"),
        ("{{true}} {{\"a\\tb\\x41\\u00e4\\101\"}} {{`raw\\n`}}", "true a\tbA\u{e4}A raw\\n"),
        ("{{print 1 2}} {{print \"a\" 1 2 \"b\"}} {{println \"a\" 1}}", "1 2 a1 2b a 1\n"),
        ("{{print nil}}", "<nil>"),
    ]);
}

#[test]
fn docker_has_functions_of_its_own() {
    check(&[
        ("{{json .State}}", r#"{"Health":null,"Pid":4711,"Running":true,"Status":"running"}"#),
        ("{{json .Args}}", r#"["-c","echo <hi> & 'bye'"]"#),
        ("{{json .Config.Entrypoint}}{{json .Name}}{{json 1}}", "null\"/web\"1"),
        ("{{json (split \"a,b\" \",\")}}", r#"["a","b"]"#),
        ("{{join .Config.Env \", \"}}", "A=1, B=2"),
        ("{{split \"a,b,c\" \",\"}} {{index (split \"a,b\" \",\") 1}}", "[a b c] b"),
        ("{{title \"one two\"}} {{upper .Name}} {{lower \"ABC\"}}", "One Two /WEB abc"),
        ("[{{pad .Name 1 2}}][{{pad \"\" 1 2}}]", "[ /web  ][]"),
        ("{{truncate .Id 4}} {{truncate .Id 40}}", "0123 0123456789abcdef"),
        ("{{.Name | upper | printf \"%s!\"}}", "/WEB!"),
    ]);
}

#[test]
fn go_has_functions_of_its_own() {
    check(&[
        ("{{len .Mounts}} {{len .Name}} {{len .Config.Labels}} {{len .Config.Entrypoint}}", "2 4 3 0"),
        ("{{slice .Name 1}} {{slice .Name 1 3}} {{slice .Config.Env 1}}", "web we [B=2]"),
        (
            "{{eq 1 1}} {{eq .Name \"a\" \"/web\"}} {{ne 1 2}} {{eq true .State.Running}}",
            "true true true true",
        ),
        ("{{lt 1 2}} {{le 2 2}} {{gt \"a\" \"b\"}} {{ge 1.5 1.5}}", "true true false true"),
        ("{{and 1 0 (index .Mounts 9)}} {{or 0 \"\" 2}} {{not 0}}", "0 2 true"),
        ("{{html (index .Args 1)}}", "echo &lt;hi&gt; &amp; &#39;bye&#39;"),
        ("{{js (index .Args 1)}}", r"echo \u003Chi\u003E \u0026 \'bye\'"),
        ("{{urlquery \"a b/ü\"}}", "a+b%2F%C3%BC"),
        ("{{eq .State.Health nil}}", "true"),
    ]);
}

#[test]
fn printf_has_the_verbs_of_go() {
    check(&[
        (r#"{{printf "%s %q %v %d %x %t" "a" "b\n" 1 2 255 true}}"#, r#"a "b\n" 1 2 ff true"#),
        (
            r#"{{printf "[%5d][%-5d][%05d][%+d][%x][%X]" 42 42 -42 42 "hi" 255}}"#,
            "[   42][42   ][-0042][+42][6869][FF]",
        ),
        (
            r#"{{printf "[%8.3f][%.2f][%-8s][%8s][%.2s]" 3.14159 2.0 "ab" "cd" "xyz"}}"#,
            "[   3.142][2.00][ab      ][      cd][xy]",
        ),
        (r#"{{printf "%e %g %.3g" 1234.5678 0.00001 1234.5678}}"#, "1.234568e+03 1e-05 1.23e+03"),
        (r#"{{printf "%d%% %c %U %o %b %#x" 5 97 97 8 5 255}}"#, "5% a U+0061 10 101 0xff"),
        (r#"{{printf "%*d" 5 42}}"#, "   42"),
        (r#"{{printf "%d" "x"}}{{printf "%s" 5}}"#, "%!d(string=x)%!s(int=5)"),
        (r#"{{printf "%d"}}{{printf "a" 1}}{{printf "%"}}"#, "%!d(MISSING)a%!(EXTRA int=1)%!(NOVERB)"),
        (r#"{{printf "%s %v" .Config.Env .Config.Labels}}"#, "[A=1 B=2] map[a:1 b:2 com.x-y:z]"),
        (r#"{{printf "%s %T" nil "a"}}"#, "%!s(<nil>) string"),
    ]);
}

#[test]
fn control_structures_choose_and_repeat() {
    check(&[
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if eq .RestartCount 1}}1{{else if eq .RestartCount 3}}3{{else}}?{{end}}", "3"),
        ("{{range .Mounts}}{{.Source}}:{{.Destination}};{{end}}", "/src:/dst;/b:/c;"),
        ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}} {{end}}", "0=A=1 1=B=2 "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a:1 b:2 com.x-y:z "),
        ("{{range $e := .Config.Env}}{{$e}}{{end}}", "A=1B=2"),
        (
            "{{range .Config.Cmd}}x{{else}}none{{end}}{{range .Config.Entrypoint}}x{{else}}none{{end}}",
            "nonenone",
        ),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{range $i, $e := .Mounts}}{{if $i}},{{end}}{{$.Name}}{{end}}", "/web,/web"),
        ("{{range 9}}{{if eq . 3}}{{break}}{{end}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{$x := 1}}{{range 3}}{{$x = .}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{define \"m\"}}<{{.Source}}>{{end}}{{range .Mounts}}{{template \"m\" .}}{{end}}", "</src></b>"),
        ("{{block \"b\" .State}}{{.Pid}}{{end}}", "4711"),
        ("a {{- \" b \" -}} \n c{{/* no */}}d {{- /* trimmed */ -}} e", "a b cde"),
        ("{{- 3 -}} x", "3x"),
    ]);
}

#[test]
fn a_wrong_template_names_place_and_problem() {
    let cases = [
        ("{{.Name", "line 1, column 8: unclosed action"),
        ("a\n{{if .X}}", "line 2, column 3: {{if}} has no {{end}}"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{foo .}}", "line 1, column 3: function \"foo\" not defined"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{$x = 1}}", "undefined variable \"$x\""),
        ("{{}}", "missing value for command"),
        ("{{.A | }}", "missing value for command"),
        ("{{.A | \"b\"}}", "stage 2 of the pipeline is no function"),
        ("{{len(.A)}}", "unexpected \"(\" in operand"),
        ("{{(.A}}", "unclosed left paren"),
        ("{{\"a}}", "quoted string"),
        ("{{`a}}", "raw quoted string"),
        ("{{.Labels.a-b}}", "unexpected character '-'"),
        ("{{1x}}", "bad number syntax"),
        ("{{/* a", "unclosed comment"),
        ("{{break}}", "{{break}} outside {{range}}"),
        ("{{.A ! .B}}", "unexpected character '!'"),
        ("{{nil.A}}", "only a field, a variable or parentheses have fields"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{$a, $b := .X}}", "too many variables"),
        ("{{if .A}}{{define \"x\"}}{{end}}{{end}}", "unexpected {{define}}"),
    ];
    for (template, problem) in cases {
        let said = Template::parse(template).expect_err(template).to_string();
        assert!(said.contains(problem), "{template}: {said}");
    }
}

#[test]
fn a_template_that_does_not_fit_names_the_part() {
    let cases = [
        ("{{.Foo}}", "line 1, column 3, at <.Foo>: can't evaluate field Foo; the fields are Args, Big, "),
        ("\n{{.State.Foo}}", "line 2, column 3, at <.State.Foo>: can't evaluate field Foo"),
        ("{{.State.Health.Status}}", "nil pointer evaluating field Status"),
        ("{{.Name.Foo}}", "can't evaluate field Foo in type string"),
        ("{{index .Mounts 5}}", "error calling index: index out of range: 5"),
        ("{{index .Mounts \"a\"}}", "cannot index with a value of type string"),
        ("{{index .Config.Labels 1}}", "the key of a map has type string; got int"),
        ("{{len 3}}", "len of type int"),
        ("{{lt 1 \"a\"}}", "incompatible types for comparison: int and string"),
        ("{{eq .Mounts .Mounts}}", "values of type list cannot be compared"),
        ("{{nil}}", "nil is not a command"),
        ("{{.Name 1}}", "Name has arguments, and is no method"),
        ("{{3 4}}", "can't give arguments to a value that is no function"),
        ("{{lower 3}}", "expected string; got int"),
        ("{{lower}}", "wrong number of arguments for lower: want 1 got 0"),
        ("{{range .Name}}{{end}}", "range can't iterate over a value of type string"),
        ("{{template \"x\"}}", "template \"x\" not defined"),
        ("{{slice .Name 9}}", "index out of range: 9"),
        ("{{slice .Name 3 1}}", "invalid slice index"),
    ];
    for (template, problem) in cases {
        let said = run(template);
        assert!(said.contains("cannot execute the template") && said.contains(problem), "{template}: {said}");
    }
}

#[test]
fn rows_have_the_method_label_and_headers_stay() {
    let row = json!({"Names": "web", "Labels": "a.b-c=1"});
    let labels = json!({"a.b-c": "1"});
    let labels = labels.as_object().expect("an object");
    let row = Data::row(&row, labels);
    assert_eq!(
        run_on("{{.Names}} {{.Label \"a.b-c\"}} {{.Label \"x\"}}|{{$.Label \"a.b-c\" | upper}}", &row),
        "web 1 |1"
    );
    assert!(run_on("{{.Label}}", &row).contains("the method Label has one argument"));
    assert!(run("{{.Label \"x\"}}").contains("is no method"));
    let headers = json!({"Names": "NAMES", "ID": "CONTAINER ID"});
    let headers = Data::headers(&headers);
    let header =
        run_on("{{truncate .ID 3}}\t{{lower .Names}}\t{{.Label \"a.b-c\"}}\t{{json .Foo}}", &headers);
    assert_eq!(header, "CONTAINER ID\tNAMES\tb c\t<no value>");
}

#[test]
fn a_field_is_found_in_any_case_and_a_key_only_in_its_own() {
    check(&[
        ("{{.ID}} {{.id}} {{.State.pid}}", "0123456789abcdef 0123456789abcdef 4711"),
        ("{{.Config.Labels.A}}", "<no value>"),
    ]);
    let event = json!({"Type": "network", "timeNano": 5});
    let event = Data::object(&event).with_optional(&["status", "from"]);
    assert_eq!(
        run_on("[{{.Status}}{{.From}}] {{.TimeNano}} {{json .}}", &event),
        "[] 5 {\"Type\":\"network\",\"timeNano\":5}"
    );
    assert!(run_on("{{.Other}}", &event).contains("can't evaluate field Other"));
}

#[test]
fn a_scalar_or_a_list_may_be_the_data() {
    let list = json!(["a", "b"]);
    assert_eq!(run_on("{{range .}}{{.}}{{end}} {{len .}}", &Data::object(&list)), "ab 2");
    assert_eq!(run_on("{{.}}", &Data::object(&json!(null))), "<nil>");
}

#[test]
fn a_hostile_template_ends_soon() {
    let deep = |open: &str, close: &str, times: usize| open.repeat(times) + "1" + &close.repeat(times);
    for (template, problem) in [
        (deep("{{if true}}", "{{end}}", 101), "are nested"),
        (format!("{{{{{}}}}}", deep("(", ")", 2000)), "are nested"),
        (format!("{{{{if 0}}}}{}{{{{end}}}}", "{{else if 0}}".repeat(500)), "are nested"),
        ("{{define \"a\"}}{{template \"a\" .}}{{end}}{{template \"a\" .}}".to_owned(), "are nested"),
        ("{{range 1000000}}{{range 1000000}}{{end}}{{end}}".to_owned(), "more work"),
        ("{{$x := \"0123456789\"}}{{range 100}}{{$x = print $x $x}}{{end}}".to_owned(), "more work"),
        ("{{range 20000}}{{printf \"%1000000d\" 1}}{{end}}".to_owned(), "more work"),
        ("{{range 1000000}}{{json $}}{{end}}".to_owned(), "more work"),
        ("{{$x := 1}}".repeat(201), "variables"),
        ("x".repeat(LENGTH_MAX + 1), "longer"),
    ] {
        let said = run(&template);
        assert!(said.contains(problem), "{:.60}: {:.200}", template, said);
    }
    assert_eq!(run(&deep("{{if true}}", "{{end}}", 90)), "1");
    assert_eq!(run(&format!("{{{{{}}}}}", deep("(", ")", 90))), "1");
}
