//! The pages that are made of the code: `cargo run --example reference` writes them, `-- --check` says which are not current.
//!
//! - `dist/man/`: lbd(8), lbagent(8), lbtop(8), lbctl(8) and one for each of its commands, of what clap knows; synrail.toml(5), of the table of keys.
//! - `dist/completions/`: for bash, zsh and fish.
//! - `docs/configuration.md`: its tables.
//! - `docs/counters.md`: of the counters in the code, and those in the ruleset's text.
//! - `docs/metrics.md`: of the list of metrics.
#![allow(missing_docs, clippy::print_stderr, reason = "a tool of this repository, not a library")]

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Command, ValueEnum as _};
use clap_complete::Shell;
use clap_mangen::Man;
use synrail::{
    balance::counters::Counter,
    config::keys::{Key, SECTIONS, Section},
    ctl, daemon,
    status::metrics::{Kind, Scope, families},
};

const TABLES_BEGIN: &str = "<!-- Made of src/config/keys.rs by `cargo run --example reference`. -->\n";
const TABLES_END: &str = "<!-- End of the tables. -->\n";
const MANUAL: &str = "synrail";
const EXAMPLE: &str = r#"[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = "eth0"

[[service]]
name = "web"
vips = ["198.51.100.10", "2001:db8::10"]
protocols = "tcp"
ports = ["80", "443"]

[[service.backend]]
name = "s1"
address = "192.168.1.1"

[[service.backend]]
name = "s2"
address = "192.168.1.2"
weight = 2
"#;

type Files = Vec<(PathBuf, Vec<u8>)>;

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("reference: unknown argument {other}; there is --check");
            return ExitCode::from(2);
        }
    };
    match files().and_then(|files| if check { old(&files) } else { write(&files).map(|()| Vec::new()) }) {
        Ok(old) if old.is_empty() => ExitCode::SUCCESS,
        Ok(old) => {
            let old: Vec<String> = old.iter().map(|path| path.display().to_string()).collect();
            eprintln!("not current: {}; write them: cargo run --example reference", old.join(" "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("reference: {error}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Those that differ from what they should be, and those that should not be there.
fn old(files: &Files) -> io::Result<Vec<PathBuf>> {
    let differ =
        |(path, wanted): &&(PathBuf, Vec<u8>)| fs::read(root().join(path)).ok().as_ref() != Some(wanted);
    let mut old: Vec<PathBuf> = files.iter().filter(differ).map(|(path, _)| path.clone()).collect();
    for directory in ["dist/man", "dist/completions"] {
        for entry in fs::read_dir(root().join(directory)).into_iter().flatten() {
            let path = Path::new(directory).join(entry?.file_name());
            if files.iter().all(|(wanted, _)| *wanted != path) {
                old.push(path);
            }
        }
    }
    Ok(old)
}

fn write(files: &Files) -> io::Result<()> {
    for directory in ["dist/man", "dist/completions"] {
        let directory = root().join(directory);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
    }
    files.iter().try_for_each(|(path, text)| fs::write(root().join(path), text))
}

fn files() -> io::Result<Files> {
    let mut files = Files::new();
    for mut command in [daemon::command(), lbagent::command(), ctl::command(), lbtop::command()] {
        command.build();
        manual_pages(&command, &mut files)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            let name = command.get_name().to_owned();
            clap_complete::generate(shell, &mut command, &name, &mut script);
            let ending = shell.to_possible_value().map(|value| value.get_name().to_owned());
            files.push((format!("dist/completions/{name}.{}", ending.unwrap_or_default()).into(), script));
        }
    }
    files.push(("dist/man/synrail.toml.5".into(), file_page().into_bytes()));
    let page = Path::new("docs/configuration.md");
    let text = fs::read_to_string(root().join(page))?;
    let cut =
        text.split_once(TABLES_BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(TABLES_END)?.1)));
    let (head, tail) = cut.ok_or_else(|| {
        io::Error::other("docs/configuration.md lacks the lines between which its tables stand")
    })?;
    files.push((
        "docs/counters.md".into(),
        counters(&fs::read_to_string(root().join("nft/synrail.nft"))?).into_bytes(),
    ));
    files.push(("docs/metrics.md".into(), metrics().into_bytes()));
    files.push((page.to_owned(), format!("{head}{TABLES_BEGIN}{}{TABLES_END}{tail}", tables()).into_bytes()));
    Ok(files)
}

/// The page of a command and those of its subcommands.
fn manual_pages(command: &Command, files: &mut Files) -> io::Result<()> {
    let subcommands: Vec<&Command> =
        command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
    let title = command.get_bin_name().unwrap_or(command.get_name()).replace(' ', "-");
    let source = format!("{MANUAL} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(&title).section("8").manual(MANUAL).source(source);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if !subcommands.is_empty() {
        page.extend(b".SH COMMANDS\n");
        for sub in &subcommands {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            page.extend(
                format!(".TP\n\\fB{title}\\-{}\\fR(8)\n{}\n", escape(sub.get_name()), escape(&about)).bytes(),
            );
        }
    }
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    page.extend(sections(&after).bytes());
    let others = ["lbd", "lbagent", "lbctl", "lbtop"].into_iter().filter(|other| *other != title);
    let others: Vec<String> = others.map(|other| format!("\\fB{other}\\fR(8)")).collect();
    page.extend(format!(".SH SEE ALSO\n{}, \\fBsynrail.toml\\fR(5)\n", others.join(", ")).bytes());
    files.push((format!("dist/man/{title}.8").into(), page));
    subcommands.into_iter().try_for_each(|sub| manual_pages(sub, files))
}

/// What help says behind the options: sections by the lines that begin with their names, indented lines as they stand.
fn sections(text: &str) -> String {
    let mut page = String::new();
    let (mut inside, mut verbatim) = (false, false);
    for line in text.lines() {
        let indented = line.starts_with("  ");
        if verbatim && !indented && !line.is_empty() {
            page += ".fi\n";
            verbatim = false;
        }
        let heading = ["Examples:", "Exit status:"].into_iter().find(|heading| line.starts_with(heading));
        if let Some(heading) = heading {
            if verbatim {
                page += ".fi\n";
                verbatim = false;
            }
            let _ = writeln!(page, ".SH {}", heading.trim_end_matches(':').to_uppercase());
            inside = true;
            let rest = line[heading.len()..].trim();
            if !rest.is_empty() {
                let _ = writeln!(page, "{}", escape(rest));
            }
            continue;
        }
        if !inside {
            page += ".SH NOTES\n";
            inside = true;
        }
        if line.is_empty() {
            page += if verbatim { "\n" } else { ".PP\n" };
        } else if indented {
            if !verbatim {
                page += ".nf\n";
                verbatim = true;
            }
            let _ = writeln!(page, "{}", escape(line));
        } else {
            let _ = writeln!(page, "{}", escape(line));
        }
    }
    if verbatim {
        page += ".fi\n";
    }
    page
}

/// synrail.toml(5).
fn file_page() -> String {
    let mut page = format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH synrail.toml 5 \"\" \"{MANUAL} {}\" {MANUAL}\n\
         .SH NAME\nsynrail.toml \\- configuration of the synrail load balancer\n\
         .SH DESCRIPTION\nThe file is TOML. \\fBlbd \\-\\-config\\fR reads it when there is no region yet, and at SIGHUP; \
         \\fBlbctl apply\\fR makes a region what it says. Where a list is wanted, one value stands for a list of one. \
         What is wrong is told all at once, with line, key, what was found and what is allowed; an unknown key is wrong.\n",
        env!("CARGO_PKG_VERSION")
    );
    for section in SECTIONS {
        let _ = writeln!(page, ".SH \"{}\"", escape(section.header));
        let about: Vec<&str> =
            [section.limit, section.about].into_iter().filter(|text| !text.is_empty()).collect();
        if !about.is_empty() {
            let _ = writeln!(page, "{}", words(&about.join(": ")));
        }
        for Key { name, meaning, default } in section.keys {
            let _ = write!(
                page,
                ".TP\n\\fB{}\\fR\n{}\n.br\nDefault: {}\n",
                escape(name),
                words(meaning),
                words(&default.to_string())
            );
        }
    }
    let _ = write!(
        page,
        ".SH EXAMPLES\n.nf\n{}.fi\n",
        EXAMPLE.lines().fold(String::new(), |text, line| text + &escape(line) + "\n")
    );
    page + ".SH FILES\n.TP\n\\fI/etc/synrail/synrail.toml\\fR\nwhere the unit of the Debian package expects it\n.SH SEE ALSO\n\\fBlbd\\fR(8), \\fBlbctl\\fR(8)\n"
}

/// Markdown as a manual page has it.
fn words(markdown: &str) -> String {
    let mut text = escape(markdown);
    while let Some(begin) = text.find("](") {
        let Some(end) = text[begin..].find(')') else { break };
        let Some(open) = text[..begin].rfind('[') else { break };
        text = format!("{}{}{}", &text[..open], &text[open + 1..begin], &text[begin + end + 1..]);
    }
    let parts: Vec<&str> = text.split('`').collect();
    let bold = |(index, part): (usize, &&str)| {
        if index % 2 == 1 { format!("\\fB{part}\\fR") } else { (*part).to_owned() }
    };
    parts.iter().enumerate().map(bold).collect()
}

fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The tables of docs/configuration.md.
fn tables() -> String {
    let mut text = String::new();
    for Section { header, limit, about, keys, .. } in SECTIONS {
        let limit = if limit.is_empty() { String::new() } else { format!(" ({limit})") };
        let about = if about.is_empty() { String::new() } else { format!(" {about}") };
        let _ = write!(text, "| `{header}`{limit} |{about} | default |\n|---|---|---|\n");
        for Key { name, meaning, default } in *keys {
            let _ = writeln!(text, "| `{name}` | {meaning} | {default} |");
        }
        text.push('\n');
    }
    text
}

/// docs/counters.md; `ruleset` is the ruleset's text, where a counter stands as `counter NAME { } # MEANING`.
fn counters(ruleset: &str) -> String {
    let mut text = "<!-- Made of src/balance/counters.rs and nft/synrail.nft by `cargo run --example reference`. -->\n# Counters\n\n\
        `lbctl stats` shows all of them, `lbctl stats --json` as numbers. None is ever set back but by a new start of lbd, or of the ruleset.\n\n\
        ## Of lbd's workers\n\n| counter | what it counts |\n|---|---|\n"
        .to_owned();
    for counter in Counter::ALL {
        let _ = writeln!(text, "| `{}` | {} |", counter.name(), counter.help());
    }
    text += "\n## Of the kernel\n\nIn packets to virtual addresses; `nft list counters` shows them as well.\n\n\
        | counter | what it counts |\n|---|---|\n";
    let counters =
        ruleset.lines().filter_map(|line| line.trim().strip_prefix("counter ")?.split_once(" { }"));
    for (name, meaning) in counters {
        let _ = writeln!(text, "| `{name}` | {} |", meaning.trim().trim_start_matches("# "));
    }
    text
}

/// docs/metrics.md.
fn metrics() -> String {
    let mut text = "<!-- Made of src/status/metrics/ by `cargo run --example reference`. -->\n# Metrics\n\n\
        What `lbctl metrics` prints, by scope (`--scope`); [Monitoring](monitoring.md) says how to use them. A counter begins anew when lbd starts, \
        or when what it belongs to is made anew: the ruleset, a queue, a tunnel.\n"
        .to_owned();
    for scope in Scope::ALL {
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| metric | type | labels | what it is |\n|---|---|---|---|\n",
            scope.name(),
            scope.about()
        );
        for family in families(None).iter().filter(|family| family.scope == scope) {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Info => "info",
            };
            let _ = writeln!(
                text,
                "| `{}` | {kind} | {} | {} |",
                family.name,
                family.labels.join(", "),
                family.help
            );
        }
    }
    text
}
