use super::*;
use crate::model::{Admin, Override};

const HEAD: &str = "[balancer]\nname='lb1'\naddress='192.168.1.201'\ninterfaces=['eth2','eth3']\n";
const TIER: &str = "[[tier.balancer]]\nname='lb1'\naddress='192.168.1.201'\n\
    [[tier.balancer]]\nname='lb2'\naddress='192.168.1.202'\n[[tier.balancer]]\nname='lb3'\naddress='192.168.1.203'\n";

/// A service at 10.0.0.N with backends s1, s2 and so on, at addresses that end like their names.
fn service(name: &str, n: u8, backends: &[u8]) -> String {
    let backends: Vec<String> =
        backends.iter().map(|n| format!("{{name='s{n}',address='192.168.1.{n}'}}")).collect();
    format!(
        "[[service]]\nname='{name}'\nvips='10.0.0.{n}'\nprotocols='tcp'\ntable_size=97\nbackend=[{}]\n",
        backends.join(",")
    )
}

fn config(text: &str) -> Config {
    Config::parse("test", text).unwrap()
}

fn state(text: &str) -> State {
    State::new(&config(text)).unwrap()
}

fn deactivated(state: &State, service: &str, names: &[&str]) -> State {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    state.set_admin(Some(service), &names, &Override::unattributed(Admin::Draining)).unwrap()
}

fn losses_by(state: &State, text: &str) -> Losses {
    state.plan(&config(text)).unwrap().losses
}

fn in_use(state: &State, text: &str) -> Vec<String> {
    losses_by(state, text).in_use
}

fn active(state: &State, service: &str) -> Vec<String> {
    state.service(service).unwrap().active().map(|backend| backend.name.to_string()).collect()
}

/// A file that is cut anywhere is invalid, or has every service and most of the tier, or the plan lists what goes.
#[test]
fn no_cut_of_a_file_takes_services_away_unseen() {
    let whole = format!("{HEAD}{}{}{TIER}", service("web", 1, &[1, 2, 3]), service("dns", 2, &[4]));
    let state = state(&whole);
    let mut valid = 0;
    for end in 0..whole.len() {
        let Ok(cut) = Config::parse("test", &whole[..end]) else { continue };
        valid += 1;
        let plan = state.plan(&cut).unwrap();
        let kept = |service: &Service| plan.next.service(service.name.as_str()).is_some();
        let all = state.services.iter().all(kept) && plan.next.tier.len() >= 2;
        assert!(all || !plan.losses.in_use.is_empty(), "{:?}", &whole[..end]);
    }
    assert!(valid > 4, "{valid}");
    assert_eq!(in_use(&state, &whole), Vec::<String>::new());
}

#[test]
fn what_is_in_use_is_not_taken_away_unasked() {
    let (web, dns) = (service("web", 1, &[1, 2, 3, 4]), service("dns", 2, &[4]));
    let state = state(&format!("{HEAD}{web}{dns}"));
    let all = "service web goes, with 4 backends in use";
    assert_eq!(in_use(&state, HEAD), [all, "service dns goes, with 1 backend in use"]);
    assert_eq!(in_use(&state, &format!("{HEAD}{dns}")), [all]);
    // Half of the backends may go, one more may not.
    assert!(in_use(&state, &format!("{HEAD}{}{dns}", service("web", 1, &[1, 2, 9]))).is_empty());
    let most = format!("{HEAD}{}{dns}", service("web", 1, &[1, 8, 9]));
    assert_eq!(in_use(&state, &most), ["service web: 3 of 4 backends in use go"]);
    // Backends out of use may.
    let out = deactivated(&state, "web", &["s2", "s3"]);
    assert!(in_use(&out, &format!("{HEAD}{}{dns}", service("web", 1, &[1]))).is_empty());
    let out = deactivated(&out, "dns", &["s4"]);
    assert!(in_use(&out, &format!("{HEAD}{web}")).is_empty());
    // Another address, port or order is no removal.
    let moved = format!("{HEAD}{dns}{}", web.replace("10.0.0.1", "10.0.0.9").replace("97", "101"));
    assert!(in_use(&state, &moved).is_empty());
    // A region without a file steers nothing.
    let made = State::unconfigured(crate::model::TableSize::new(97).unwrap(), 4, 4).unwrap();
    assert!(in_use(&made, HEAD).is_empty());
}

#[test]
fn the_file_of_another_balancer_is_reported() {
    let web = service("web", 1, &[1]);
    let state = state(&format!("{HEAD}{web}"));
    let other = HEAD.replace("lb1", "lb2");
    assert_eq!(
        in_use(&state, &format!("{other}{web}")),
        ["the file is that of balancer \"lb2\", and this is \"lb1\""]
    );
    let other = HEAD.replace("'eth2','eth3'", "'eth4'");
    assert_eq!(in_use(&state, &format!("{other}{web}")), ["no interface stays, eth2 eth3 goes"]);
    assert!(in_use(&state, &format!("{}{web}", HEAD.replace("'eth2',", ""))).is_empty());
}

#[test]
fn a_tier_in_use_is_not_taken_away_unasked() {
    let state = state(&format!("{HEAD}{TIER}"));
    assert_eq!(in_use(&state, HEAD), ["tier: 2 of 2 other balancers in use go"]);
    let one = TIER.replace("[[tier.balancer]]\nname='lb3'\naddress='192.168.1.203'\n", "");
    assert!(in_use(&state, &format!("{HEAD}{one}")).is_empty());
    let out = state
        .set_tier_admin(&["lb2".to_owned(), "lb3".to_owned()], &Override::unattributed(Admin::Draining))
        .unwrap();
    let losses = losses_by(&out, HEAD);
    assert!(losses.in_use.is_empty());
    assert_eq!(
        losses.forgotten[0],
        "balancer lb2 of the tier goes, and with it: draining by unknown since 1970-01-01T00:00:00Z"
    );
}

#[test]
fn what_was_deactivated_and_goes_is_reported() {
    let web = service("web", 1, &[1, 2, 3]);
    let state = deactivated(&state(&format!("{HEAD}{web}")), "web", &["s1", "s2"]);
    let site = format!("{HEAD}{}", service("site", 1, &[1, 2, 3]));
    let hint = "(if it is service site now: renamed_from = \"web\" there keeps what is set)";
    let losses = losses_by(&state, &site);
    assert_eq!(losses.in_use, [format!("service web goes, with 1 backend in use {hint}")]);
    let goes = "service web goes, and with it what lbctl said of s1 s2";
    assert_eq!(losses.forgotten, [format!("{goes} {hint}")]);
    let other = format!("{HEAD}{}", service("dns", 2, &[1]));
    assert_eq!(losses_by(&state, &other).forgotten, [goes]);
    let without = format!("{HEAD}{}", service("web", 1, &[1, 3]));
    assert_eq!(
        losses_by(&state, &without).forgotten,
        ["backend web/s2 goes, and with it: draining by unknown since 1970-01-01T00:00:00Z"]
    );
}

#[test]
fn a_renamed_service_keeps_what_is_set() {
    let before = format!("{HEAD}{}{}", service("web", 1, &[1, 2]), service("dns", 2, &[4]));
    let state = deactivated(&state(&before), "web", &["s1"]);
    let renamed =
        |new: &str| service("site", 1, &[1, 2]).replace("vips", &format!("renamed_from='{new}'\nvips"));
    let file = config(&format!("{HEAD}{}{}", renamed("web"), service("dns", 2, &[4])));
    let plan = state.plan(&file).unwrap();
    assert_eq!(active(&plan.next, "site"), ["s2"]);
    assert_eq!(plan.next.service("site").unwrap().table, state.service("web").unwrap().table);
    assert_eq!(plan.losses, Losses::default());
    let lines: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["~ service site name: web -> site"]);
    assert_eq!(state.merge(&file).unwrap(), plan.next);
    // Done already, and in a region that is made anew.
    let again = plan.next.plan(&file).unwrap();
    assert_eq!((again.changes, &again.next), (vec![], &plan.next));
    assert_eq!(active(&State::new(&file).unwrap(), "site"), ["s1", "s2"]);
    // Both are there, or neither.
    let both = self::state(&format!("{before}{}", service("site", 3, &[1])));
    let error = both.plan(&file).unwrap_err().to_string();
    assert!(error.contains("\"site\" has renamed_from = \"web\", but there are both"), "{error}");
    let neither = config(&format!("{HEAD}{}", renamed("wep")));
    let error = state.plan(&neither).unwrap_err().to_string();
    assert!(error.contains("but there is neither; there are: dns, web"), "{error}");
}

#[test]
fn a_backend_under_another_name_stays_as_it_is() {
    let state = deactivated(&state(&format!("{HEAD}{}", service("web", 1, &[1, 2]))), "web", &["s1"]);
    let file = format!("{HEAD}{}", service("web", 1, &[1, 2]).replace("'s1'", "'new'"));
    let plan = state.plan(&config(&file)).unwrap();
    assert_eq!(active(&plan.next, "web"), ["s2"]);
    assert_eq!(plan.losses, Losses::default());
    // If two backends swap names, activation stays with the name.
    let file = format!(
        "{HEAD}{}",
        service("web", 1, &[1, 2]).replace("'s1'", "'x'").replace("'s2'", "'s1'").replace("'x'", "'s2'")
    );
    assert_eq!(active(&state.plan(&config(&file)).unwrap().next, "web"), ["s2"]);
    // A backend that the file itself activates is active.
    let file = format!("{HEAD}{}", service("web", 1, &[1, 2]).replace("'s1',", "'new',active=true,"));
    assert_eq!(active(&state.plan(&config(&file)).unwrap().next, "web"), ["new", "s2"]);
}

#[test]
fn a_renamed_service_goes_on_taking_the_flows_of_others() {
    let web =
        |spare: &str| service("web", 1, &[1]).replace("vips", &format!("no_backend='service:{spare}'\nvips"));
    let before = state(&format!("{HEAD}{}{}", web("spare"), service("spare", 2, &[4])));
    let before = deactivated(&before, "web", &["s1"]);
    let renamed = service("other", 2, &[4]).replace("vips", "renamed_from='spare'\nvips");
    let plan = before.plan(&config(&format!("{HEAD}{}{renamed}", web("other")))).unwrap();
    plan.next.check().unwrap();
    assert_eq!(plan.changes.len(), 1, "the name: {:?}", plan.changes);
    assert!(std::ptr::eq(&*plan.next.services[0].table, &*before.services[0].table));
    assert_eq!(plan.next.services[0].table.len(), 97);
    // Without the stand-in, there is no table.
    let alone = before.plan(&config(&format!("{HEAD}{}", service("web", 1, &[1])))).unwrap();
    assert!(alone.next.services[0].table.is_empty());
    assert_eq!(
        before
            .plan(&config(&format!("{HEAD}{}{}", web("spare"), service("spare", 2, &[4]))))
            .unwrap()
            .changes,
        []
    );
}

#[test]
fn a_wrong_renamed_from_is_a_complaint() {
    for (first, second, found) in [
        ("web", "", "\"web\"; allowed: the name of a service that the file no longer has"),
        ("dns", "", "\"dns\"; allowed: the name of a service that the file no longer has"),
        ("old", "old", "\"old\"; allowed: each name once"),
        ("a b", "", "allowed: 1 to 48 of"),
    ] {
        let with = |text: String, old: &str| match old {
            "" => text,
            old => text.replace("vips", &format!("renamed_from='{old}'\nvips")),
        };
        let text = format!(
            "{HEAD}{}{}",
            with(service("web", 1, &[1]), first),
            with(service("dns", 2, &[1]), second)
        );
        let errors = Config::parse("test", &text).unwrap_err().to_string();
        assert!(errors.contains("renamed_from: found") && errors.contains(found), "{first}: {errors}");
    }
}

#[test]
fn what_decides_about_all_packets_is_not_lost_unseen() {
    let with = |settings: &str| format!("{HEAD}{settings}{}", service("web", 1, &[1, 2]));
    let state = state(&with("gre_in=true\nhash_seed=5\n"));
    let losses = |settings: &str| in_use(&state, &with(settings)).join("; ");
    assert_eq!(losses("gre_in=true\nhash_seed=5\n"), "");
    assert!(losses("hash_seed=5\n").starts_with("gre_in goes"));
    assert!(losses("gre_in=true\n").starts_with("hash_seed was 0x5 and is"));
}
