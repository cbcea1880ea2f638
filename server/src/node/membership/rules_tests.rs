use super::*;

/// A cluster: voters that run, voters that are down, voters that were added and never started.
struct Cluster {
    membership: Membership,
    started: BTreeSet<u64>,
    connected: BTreeMap<u64, Duration>,
    strict: bool,
}

const LONG: Duration = Duration::from_secs(60);

fn node(id: u64, pending_voter: bool) -> Node {
    Node {
        peer_urls: vec![format!("http://m{id}:1")],
        pending_voter,
    }
}

impl Cluster {
    /// Members 1… are voters, of which the last `down` are not reached.
    fn voters(count: u64, down: u64) -> Self {
        let ids: BTreeSet<u64> = (1..=count).collect();
        let nodes: BTreeMap<u64, Node> = ids.iter().map(|id| (*id, node(*id, false))).collect();
        let connected = (2..=count - down).map(|id| (id, LONG)).collect();
        Self {
            membership: Membership::new(vec![ids.clone()], nodes).unwrap(),
            started: ids,
            connected,
            strict: true,
        }
    }

    /// Adds a raft learner that has not started.
    fn with(mut self, id: u64, pending_voter: bool) -> Self {
        let mut nodes: BTreeMap<u64, Node> = self
            .membership
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .collect();
        nodes.insert(id, node(id, pending_voter));
        let voters = self.membership.voter_ids().collect();
        self.membership = Membership::new(vec![voters], nodes).unwrap();
        self
    }

    fn judge(&self, change: &Change) -> Result<Step, Verdict> {
        self.view_at(&|_| 1000).judge(change)
    }

    fn judge_matched(&self, change: &Change, matched: u64) -> Result<Step, Verdict> {
        let matched = |_| matched;
        View {
            matched: &matched,
            ..self.view_at(&|_| 0)
        }
        .judge(change)
    }

    fn view_at<'a>(&'a self, matched: &'a dyn Fn(u64) -> u64) -> View<'a> {
        View {
            membership: &self.membership,
            local: 1,
            started: Box::leak(Box::new({
                let started = self.started.clone();
                move |id| started.contains(&id)
            })),
            removed: &|id| id == 99,
            connected: Box::leak(Box::new({
                let connected = self.connected.clone();
                move |id| connected.get(&id).copied()
            })),
            matched,
            last: 1000,
            strict: self.strict,
            learners_max: 1,
        }
    }

    fn refused(&self, change: &Change) -> Option<Error> {
        match self.judge(change) {
            Ok(_) => None,
            Err(Verdict::Refused(error)) => Some(error),
            Err(Verdict::Wait) => panic!("{change:?} waits"),
        }
    }
}

fn add(id: u64, learner: bool) -> Change {
    Change::Add {
        id,
        peer_urls: vec![format!("http://m{id}:1")],
        learner,
    }
}

fn voters_of(step: Result<Step, Verdict>) -> Vec<u64> {
    match step {
        Ok(Step::Append(membership)) => membership.voter_ids().collect(),
        other => panic!("{other:?}"),
    }
}

/// PR #21669: with 1 of 3 down refused, 1 of 4 or 5 allowed, 2 of 5 refused.
#[test]
fn pr_21669_adding_takes_a_connected_quorum_of_the_new_cluster() {
    for (voters, down, refusal) in [
        (1, 0, None),
        (2, 0, None),
        (2, 1, Some(Error::Unhealthy)),
        (3, 0, None),
        (3, 1, Some(Error::Unhealthy)),
        (4, 1, None),
        (5, 1, None),
        (5, 2, Some(Error::Unhealthy)),
    ] {
        for learner in [false, true] {
            let cluster = Cluster::voters(voters, down);
            assert_eq!(
                cluster.refused(&add(9, learner)),
                refusal,
                "{voters} {down}"
            );
            let lax = Cluster {
                strict: false,
                ..cluster
            };
            assert_eq!(lax.refused(&add(9, learner)), None);
        }
    }
}

#[test]
fn a_quorum_that_has_just_come_together_is_not_enough_to_add() {
    let mut cluster = Cluster::voters(3, 0);
    cluster.connected.insert(2, Duration::from_millis(4999));
    assert_eq!(cluster.refused(&add(9, false)), Some(Error::Unhealthy));
    cluster.connected.insert(2, CONNECTED_MIN);
    assert_eq!(cluster.refused(&add(9, false)), None);
}

#[test]
fn adding_a_voter_takes_a_started_quorum() {
    // One started member of one may, though the two then have no quorum of started ones.
    assert_eq!(Cluster::voters(1, 0).refused(&add(9, false)), None);
    let two = Cluster::voters(1, 0).with(2, true);
    let refusal = Some(Error::MemberNotEnoughStarted);
    assert_eq!(two.refused(&add(9, false)), refusal);
    // A learner is no voter; what it takes is connections.
    assert_eq!(two.refused(&add(9, true)), Some(Error::Unhealthy));
    let four = Cluster::voters(3, 0).with(4, true);
    assert_eq!(four.refused(&add(9, false)), None);
    let five = Cluster::voters(3, 0).with(4, true).with(5, true);
    assert_eq!(five.refused(&add(9, false)), refusal);
}

#[test]
fn an_added_voter_counts_only_once_it_has_settled() {
    let mut cluster = Cluster::voters(1, 0).with(2, true);
    assert_eq!(voters_of(Cluster::voters(1, 0).judge(&add(2, false))), [1]);
    let settle = Change::Settle(2);
    assert_eq!(cluster.judge(&settle), Err(Verdict::Wait));
    cluster.started.insert(2);
    assert_eq!(cluster.judge(&settle), Err(Verdict::Wait));
    cluster.connected.insert(2, Duration::ZERO);
    assert_eq!(cluster.judge_matched(&settle, 871), Err(Verdict::Wait));
    assert_eq!(voters_of(cluster.judge_matched(&settle, 872)), [1, 2]);
    // A learner waits for its promotion.
    let learner = Cluster {
        membership: Cluster::voters(1, 0).with(2, false).membership,
        ..cluster
    };
    assert_eq!(learner.judge(&settle), Err(Verdict::Wait));
}

#[test]
fn ids_urls_and_the_number_of_learners() {
    let cluster = Cluster::voters(3, 0).with(4, false);
    assert_eq!(cluster.refused(&add(2, false)), Some(Error::MemberExist));
    // Its id was removed; the next second gives it another one.
    assert_eq!(cluster.judge(&add(99, false)), Err(Verdict::Wait));
    let taken = Change::Add {
        id: 9,
        peer_urls: vec!["http://m9:1".into(), "http://m3:1".into()],
        learner: false,
    };
    assert_eq!(cluster.refused(&taken), Some(Error::PeerURLExist));
    assert_eq!(cluster.refused(&add(9, true)), Some(Error::TooManyLearners));
    assert_eq!(cluster.refused(&add(9, false)), None);
}

#[test]
fn removing_keeps_a_quorum() {
    for (voters, down, victim, refusal) in [
        (1, 0, 1, Some(Error::MemberNotEnoughStarted)),
        (2, 0, 2, None),
        (2, 1, 2, None),
        (3, 0, 1, None),
        (3, 1, 3, None),
        (3, 1, 2, Some(Error::Unhealthy)),
        (3, 1, 1, Some(Error::Unhealthy)),
        (5, 1, 2, None),
        (5, 2, 2, Some(Error::Unhealthy)),
        (5, 2, 5, None),
        (3, 0, 77, Some(Error::MemberNotFound)),
    ] {
        let cluster = Cluster::voters(voters, down);
        let change = Change::Remove(victim);
        assert_eq!(
            cluster.refused(&change),
            refusal,
            "{victim} of {voters}-{down}"
        );
        if refusal == Some(Error::Unhealthy) {
            let lax = Cluster {
                strict: false,
                ..cluster
            };
            assert_eq!(lax.refused(&change), None);
        }
    }
    // Whatever the flags say, somebody must be left.
    let lax = Cluster {
        strict: false,
        ..Cluster::voters(1, 0)
    };
    let refusal = Some(Error::MemberNotEnoughStarted);
    assert_eq!(lax.refused(&Change::Remove(1)), refusal);
}

#[test]
fn a_learner_may_always_leave() {
    let cluster = Cluster::voters(3, 1).with(4, false);
    assert_eq!(voters_of(cluster.judge(&Change::Remove(4))), [1, 2, 3]);
}

#[test]
fn the_last_voter_leaves_once_the_pending_one_has_settled() {
    let mut cluster = Cluster::voters(1, 0).with(2, true);
    let refusal = Some(Error::MemberNotEnoughStarted);
    assert_eq!(cluster.refused(&Change::Remove(1)), refusal);
    cluster.started.insert(2);
    cluster.connected.insert(2, LONG);
    assert_eq!(cluster.judge(&Change::Remove(1)), Err(Verdict::Wait));
}

#[test]
fn promotion_takes_a_learner_that_has_caught_up() {
    let mut cluster = Cluster::voters(3, 0).with(4, false);
    let promote = Change::Promote(4);
    assert_eq!(cluster.refused(&promote), Some(Error::LearnerNotReady));
    cluster.started.insert(4);
    let behind = cluster.judge_matched(&promote, 899);
    assert_eq!(behind, Err(Error::LearnerNotReady.into()));
    assert_eq!(
        voters_of(cluster.judge_matched(&promote, 900)),
        [1, 2, 3, 4]
    );
    for (id, refusal) in [
        (1, Error::MemberNotLearner),
        (2, Error::MemberNotLearner),
        (77, Error::MemberNotFound),
    ] {
        assert_eq!(cluster.refused(&Change::Promote(id)), Some(refusal));
    }
}

#[test]
fn an_update_changes_the_urls_of_one() {
    let cluster = Cluster::voters(3, 0).with(4, true);
    let update = |id, url: &str| Change::Update {
        id,
        peer_urls: vec![url.to_owned()],
    };
    let refusal = cluster.refused(&update(2, "http://m3:1"));
    assert_eq!(refusal, Some(Error::PeerURLExist));
    let refusal = cluster.refused(&update(77, "http://x:1"));
    assert_eq!(refusal, Some(Error::MemberNotFound));
    // Its own URL again is no clash, and what it is does not change.
    for url in ["http://m4:1", "http://x:1"] {
        let step = cluster.judge(&update(4, url)).unwrap();
        let node = Node {
            peer_urls: vec![url.to_owned()],
            pending_voter: true,
        };
        assert_eq!(step, Step::Set(4, node));
    }
}

#[test]
fn the_urls_of_all_members_together_are_bounded() {
    let cluster = Cluster::voters(3, 0);
    let urls = |bytes: usize| vec![format!("http://{}:1", "m".repeat(bytes - 9))];
    let change = |id, bytes| Change::Update {
        id,
        peer_urls: urls(bytes),
    };
    let refused = Err(Verdict::Refused(Error::RequestTooLarge));
    assert_eq!(cluster.judge(&change(2, URL_BYTES_MAX)), refused);
    let others = 2 * "http://m1:1".len();
    assert_eq!(
        cluster.judge(&change(2, URL_BYTES_MAX - others + 1)),
        refused
    );
    assert!(cluster.judge(&change(2, URL_BYTES_MAX - others)).is_ok());
    let add = Change::Add {
        id: 9,
        peer_urls: urls(URL_BYTES_MAX),
        learner: true,
    };
    assert_eq!(cluster.judge(&add), refused);
}
