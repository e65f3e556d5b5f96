//! Changes of others are noticed, this process's own are not.

use super::*;
use crate::sys::{namespace::shell, nft::OthersWatch};

#[test]
#[ignore = "needs root and nf_tables"]
fn changes_of_others_are_noticed_and_own_ones_are_not() {
    in_namespace(|| {
        let (mut watch, mut tables) = (OthersWatch::default(), Tables::default());
        assert!(!watch.look().unwrap(), "the first look");
        let (first, second) = (ruleset(&state(), 9), ruleset(&state(), 12));
        super::super::apply(&first, &mut tables).unwrap();
        assert!(!watch.look().unwrap(), "the ruleset made");
        change(&second, Some(&first.elements), &mut tables).unwrap();
        assert!(!watch.look().unwrap(), "elements changed");
        change_elements(&second.elements, &Elements::default()).unwrap();
        assert!(!watch.look().unwrap(), "elements deleted");
        change_elements(&second.elements, &Elements::default()).unwrap_err();
        assert!(!watch.look().unwrap(), "refused");
        for others in
            ["nft add table inet other", "nft flush chain inet synrail queue_flow", "nft flush ruleset"]
        {
            shell(others);
            assert!(watch.look().unwrap(), "{others}");
            assert!(!watch.look().unwrap(), "{others}: once");
        }
        shell("nft add table inet other");
        super::super::apply(&second, &mut tables).unwrap();
        assert!(watch.look().unwrap(), "among own ones");
        cleanup().unwrap();
        assert!(!watch.look().unwrap(), "removed");
    });
}
