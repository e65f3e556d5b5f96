use proptest::prelude::*;

use super::*;

fn config(services: &[(&str, &[(&str, &str)])]) -> Config {
    let mut text =
        "[balancer]\nname='lb'\naddress=['192.168.1.201','fd00::201']\ninterfaces=['eth2']\n".to_owned();
    for (index, (name, backends)) in services.iter().enumerate() {
        text += &format!(
            "[[service]]\nname='{name}'\nvips=['10.0.0.{index}']\nprotocols=['tcp']\ntable_size=997\n"
        );
        for (backend, rest) in *backends {
            text += &format!("[[service.backend]]\nname='{backend}'\n{rest}\n");
        }
    }
    Config::parse("test", &text).unwrap()
}

fn number(state: &State, service: &str, backend: &str) -> u32 {
    let service = state.service(service).unwrap();
    service.backends.iter().find(|b| b.name.as_str() == backend).unwrap().target.number()
}

const S1: (&str, &str) = ("s1", "address='192.168.1.1'");
const S2: (&str, &str) = ("s2", "address='192.168.1.2'");
const S3: (&str, &str) = ("s3", "address='fd00::3'");

#[test]
fn targets_are_shared_by_services_and_keep_their_numbers() {
    let first = State::new(&config(&[("web", &[S1, S2]), ("dns", &[("x", S2.1), S3])])).unwrap();
    assert_eq!(number(&first, "web", "s2"), number(&first, "dns", "x"));
    assert_eq!(first.targets_used().count(), 3);
    assert_eq!(first.names_of(TargetId::from_number(2).unwrap()).collect::<Vec<_>>(), ["web/s2", "dns/x"]);

    let without = first.merge(&config(&[("web", &[S2]), ("dns", &[S3])])).unwrap();
    assert_eq!(number(&without, "web", "s2"), 2);
    assert_eq!(without.targets_used().count(), 2);
    // The number of s1 rests: a newcomer takes a fresh one.
    let newcomer =
        without.merge(&config(&[("web", &[S2, ("s9", "address='192.168.1.9'")]), ("dns", &[S3])])).unwrap();
    assert_eq!(number(&newcomer, "web", "s9"), 4);
}

#[test]
fn a_file_that_does_not_say_leaves_activation_alone() {
    let state = State::new(&config(&[("web", &[S1, S2])])).unwrap();
    let down = state.set_active(None, &["s1".to_owned()], false).unwrap();
    let again = down.merge(&config(&[("web", &[S1, S2])])).unwrap();
    assert_eq!(again, down);
    let said = down.merge(&config(&[("web", &[("s1", "address='192.168.1.1'\nactive=true"), S2])])).unwrap();
    assert_eq!(said, state);
}

#[test]
fn changes_are_named_one_by_one() {
    let state = State::new(&config(&[("web", &[S1, S2])])).unwrap();
    let next = state
        .merge(&config(&[("web", &[("s1", "address='192.168.1.1'\nweight=5"), S3]), ("new", &[S1])]))
        .unwrap();
    let lines: Vec<_> = state.changes(&next).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ backend web/s1 weight: 1 -> 5",
            "- backend web/s2: path gre 192.168.1.2, weight 1, active yes",
            "+ backend web/s3: path gre fd00::3, weight 1, active yes",
            "+ service new: vips 10.0.0.1/32, protocols tcp, ports all, hash 5-tuple, table_size 997",
            "+ backend new/s1: path gre 192.168.1.1, weight 1, active yes",
        ]
    );
    assert!(next.changes(&next).is_empty());
}

#[test]
fn unknown_names_change_nothing_and_say_what_there_is() {
    let state = State::new(&config(&[("web", &[S1, S2])])).unwrap();
    let error = state.set_active(None, &["s1".to_owned(), "s9".to_owned()], false).unwrap_err();
    assert_eq!(error.to_string(), "no backend \"s9\" in any service; there are: s1, s2");
    let error = state.set_active(Some("wep"), &["s1".to_owned()], false).unwrap_err();
    assert_eq!(error.to_string(), "no service \"wep\"; there are: web");
}

#[test]
fn a_region_without_configuration_has_marks_in_the_order_of_names() {
    let state = State::unconfigured(TableSize::at_most(100).unwrap(), 12, 5).unwrap();
    for index in 0u32..12 {
        assert_eq!(number(&state, "default", &index.to_string()), index + 1);
    }
    let active: Vec<_> = state.services[0].active().map(|b| b.name.to_string()).collect();
    assert_eq!(active, ["0", "1", "2", "3", "4"]);
    assert_eq!(state.services[0].table.len(), 97);
}

#[test]
fn more_targets_than_numbers_are_refused() {
    let mut state = State::unconfigured(TableSize::DEFAULT, TARGETS_MAX, 1).unwrap();
    assert_eq!(state.new_target(Path::MarkOnly), Err(StateError::TooManyTargets));
    assert_eq!(State::unconfigured(TableSize::DEFAULT, TARGETS_MAX + 1, 1), Err(StateError::TooManyTargets));
}

proptest! {
    /// Whatever activations led to a set, the tables are those of the set.
    #[test]
    fn tables_do_not_depend_on_history(
        ours in prop::collection::vec((0usize..10, any::<bool>()), 0..30),
        theirs in prop::collection::vec((0usize..10, any::<bool>()), 0..30),
        last in prop::collection::vec(any::<bool>(), 10),
    ) {
        let reach = |history: &[(usize, bool)]| {
            let mut state = State::unconfigured(TableSize::new(997).unwrap(), 10, 3).unwrap();
            let settle = last.iter().enumerate().map(|(index, &active)| (index, active));
            for (index, active) in history.iter().copied().chain(settle) {
                state = state.set_active(Some("default"), &[index.to_string()], active).unwrap();
            }
            state
        };
        let (ours, theirs) = (reach(&ours), reach(&theirs));
        prop_assert_eq!(&ours.services[0].table, &theirs.services[0].table);
        prop_assert_eq!(ours.services[0].table.is_empty(), !last.contains(&true));
    }
}
