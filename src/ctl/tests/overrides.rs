//! What operators say of backends: by which user, when, why; and what becomes of it when the region is made again.

use std::fs;

use super::*;

const DRAINING: &str = "draining by tester since 1970-01-01T00:16:40Z";

/// As a reboot does it.
fn reboot(lb: &Lb) {
    Region::remove(&lb.name).unwrap();
}

fn kept(lb: &Lb) -> PathBuf {
    lb.state.path().join(format!("{}.json", lb.name))
}

#[test]
fn the_user_time_and_reason_of_an_override_are_shown() {
    let lb = Lb::new("why");
    lb.with(FILE, "apply -");
    let said = lb.done("deactivate --service web s1 --reason disk");
    assert!(said.contains("web/s1: now draining\n"), "{said}");
    assert!(lb.done("show").contains(&format!("  s1: {DRAINING}: disk\n")));
    assert!(lb.done("backends").contains(&format!("  web/s1: {DRAINING}: disk\n")));
    let backend = &lb.json("backends --service web --json")[0];
    assert_eq!((&backend["active"], &backend["override"]["reason"]), (&false.into(), &"disk".into()));
    assert_eq!(backend["override"]["by"], "tester");
    // Another reason is a change, none is not.
    assert!(lb.done("deactivate --service web s1").contains("web/s1: already draining\nnothing to change\n"));
    assert!(lb.done("deactivate --service web s1 --reason fan").contains("in force") || kept(&lb).exists());
    assert!(lb.done("show").contains(&format!("  s1: {DRAINING}: fan\n")));
    lb.done("activate --service web s1");
    assert!(!lb.done("show").contains("tester"));
    assert!(!kept(&lb).exists(), "nothing is kept of nothing");
    let ended = lb.run("deactivate s1 --reason");
    assert_eq!(ended.status, Status::Usage);
}

#[test]
fn a_reboot_ends_only_what_is_meant_to_end_with_the_region() {
    let lb = Lb::new("reboot");
    lb.with(FILE, "apply -");
    lb.done("deactivate --service web s1 --reason disk");
    assert_eq!(lb.run("deactivate --service web s2 --runtime").status, Status::Done);
    assert!(lb.done("show").contains(&format!("  s2: {DRAINING}, until the region goes\n")));
    reboot(&lb);
    let ended = lb.with(FILE, "apply -");
    assert_eq!((ended.status, ended.err.as_str()), (Status::Done, ""));
    assert!(ended.out.contains("active no, override draining by tester"), "{}", ended.out);
    assert_eq!(lb.active(), ["s2"]);
    assert!(lb.done("show").contains(&format!("  s1: {DRAINING}: disk\n")));
    // Tried for a while.
    lb.done("activate --service web s1 --runtime");
    assert_eq!(lb.active(), ["s1", "s2"]);
    reboot(&lb);
    lb.with(FILE, "apply -");
    assert_eq!(lb.active(), ["s2"]);
    // `clean` removes the overrides with the region, unless they are to be kept.
    lb.done("clean --keep-overrides");
    lb.with(FILE, "apply -");
    assert_eq!(lb.active(), ["s2"]);
    let removed = lb.done("clean");
    assert!(removed.contains(&format!("overrides removed, {}\n", kept(&lb).display())), "{removed}");
    lb.with(FILE, "apply -");
    assert_eq!(lb.active(), ["s1", "s2"]);
    // Also where a reboot has taken the region already.
    lb.done("deactivate --service web s1");
    reboot(&lb);
    assert!(lb.done("clean").starts_with("overrides removed, "));
    lb.refused("clean", Status::Failed, "there is no region");
}

#[test]
fn a_damaged_file_is_reported_and_kept_aside_and_the_configuration_counts() {
    let lb = Lb::new("damaged");
    lb.with(FILE, "apply -");
    lb.done("deactivate --service web s1 --reason disk");
    let whole = fs::read(kept(&lb)).unwrap();
    fs::write(kept(&lb), &whole[..whole.len() / 2]).unwrap();
    reboot(&lb);
    let dry = lb.with(FILE, "apply - --dry-run");
    assert!(dry.err.contains("cannot be used, so only the file counts") && kept(&lb).exists(), "{}", dry.err);
    let ended = lb.with(FILE, "apply -");
    assert_eq!(ended.status, Status::Pending);
    let aside = kept(&lb).with_extension("json.damaged-1000");
    let warning = format!("lbctl: warning: the damaged file is kept as {}\n", aside.display());
    assert!(ended.err.contains("EOF while parsing") && ended.err.contains(&warning), "{}", ended.err);
    assert_eq!(fs::read(aside).unwrap(), whole[..whole.len() / 2]);
    assert_eq!(lb.active(), ["s1", "s2"]);
    lb.done("deactivate --service web s1");
    assert!(kept(&lb).exists());
}

#[test]
fn what_cannot_be_kept_is_done_all_the_same_with_a_warning() {
    let lb = Lb::new("full");
    lb.with(FILE, "apply -");
    // As on a disk that is full.
    let place = lb.state.path().to_owned();
    fs::remove_dir(&place).unwrap();
    fs::write(&place, "").unwrap();
    let ended = lb.run("deactivate --service web s1");
    assert_eq!(ended.status, Status::Pending);
    assert!(ended.err.contains("overrides will not outlive a reboot: "), "{}", ended.err);
    assert_eq!(lb.active(), ["s2"]);
    let json: Value =
        serde_json::from_str(&lb.run("deactivate --service web s1 --reason disk --json").out).unwrap();
    assert!(json["not_kept"].as_str().unwrap().contains("synrail-ctl-"), "{json}");
    // What holds already is kept as soon as it can be.
    fs::remove_file(&place).unwrap();
    assert!(lb.done("deactivate --service web s1").contains("nothing to change"));
    assert!(kept(&lb).exists());
    reboot(&lb);
    lb.with(FILE, "apply -");
    assert_eq!(lb.active(), ["s2"]);
}

#[test]
fn an_override_of_what_is_gone_is_reported_and_forgotten() {
    let lb = Lb::new("gone");
    lb.with(FILE, "apply -");
    lb.done("deactivate --service web s1 --reason disk");
    reboot(&lb);
    let other = FILE.replace("\"s1\"", "\"s7\"");
    let ended = lb.with(&other, "apply -");
    assert!(ended.err.contains("there is no web/s1, which has an override"), "{}", ended.err);
    lb.done("deactivate --service web s2");
    let kept = fs::read_to_string(kept(&lb)).unwrap();
    assert!(kept.contains("s2") && !kept.contains("s1"), "{kept}");
}
