use std::{path::Path, thread};

use super::*;

/// A helper on a thread of this process, which starts this program as the agent.
fn helper(agent: Option<&str>) -> &'static Helper {
    let (ours, its) = UnixStream::pair().unwrap();
    let agent = agent.map(|path| Path::new(path).to_owned());
    thread::spawn(move || server::serve(its, agent));
    Box::leak(Box::new(Helper::over(ours)))
}

fn start(helper: &'static Helper) -> Result<Agent, Answer> {
    let answer = helper.ask(&Request::StartAgent { region: "test".into() }).unwrap().0;
    if let Answer::Started(pid) = answer { Ok(Agent { helper, pid }) } else { Err(answer) }
}

#[test]
fn it_starts_the_agent_alone_and_says_how_that_ended() {
    // It refuses the arguments, and ends.
    let agent = start(helper(Some("/bin/true"))).unwrap();
    let limit = std::time::Duration::from_secs(10);
    let step = std::time::Duration::from_millis(5);
    let how = crate::sys::clock::wait_for(limit, step, || agent.ended()).unwrap();
    assert!(how.unwrap().success());
    let agent = start(helper(Some("/bin/false"))).unwrap();
    let how = crate::sys::clock::wait_for(limit, step, || agent.ended()).unwrap();
    assert_eq!(how.unwrap().code(), Some(1));
    let gone = Answer::Ended(Some(Err("it was not started".to_owned())));
    let answer = helper(None).ask(&Request::AgentEnded).unwrap().0;
    assert_eq!(format!("{answer:?}"), format!("{gone:?}"));
    assert!(matches!(start(helper(Some("/nowhere/lbagent"))), Err(Answer::NotStarted(_))));
    assert!(matches!(start(helper(None)), Err(Answer::NotStarted(_))));
    assert!(Agent::start(&"test".parse().unwrap()).is_err(), "this process has no helper");
}

#[test]
fn it_loads_no_module_but_those_that_lbd_needs() {
    assert!(!helper(None).load_modules(&["fou", "nfs"]));
}

#[test]
fn one_that_is_gone_is_an_error_and_not_waited_for() {
    let (ours, its) = UnixStream::pair().unwrap();
    drop(its);
    let helper = Helper::over(ours);
    assert!(matches!(helper.make("table inet t {}"), Err(NftError::Run(_))));
    let error = helper.check("a test", &["table inet t {}"]).unwrap_err().to_string();
    assert!(error.contains("restart lbd"), "{error}");
    assert!(!helper.load_modules(&["fou"]));
}

#[test]
#[ignore = "needs root and nf_tables"]
fn what_nft_refuses_is_an_error_and_what_it_accepts_is_elsewhere() {
    let helper = helper(None);
    let answers = helper.check("a test", &["table inet t { }\n", "table inet t { nonsense }\n"]).unwrap();
    assert!(answers[0].is_ok() && answers[1].as_ref().is_err_and(|why| why.contains("nonsense")));
    let refused = helper.make("nonsense").map(drop);
    assert!(matches!(refused, Err(NftError::Refused { what: "the ruleset", .. })), "{refused:?}");
    assert!(helper.make("table inet synrail { }\n").is_ok());
}
