//! Standing alarms, and what they forbid (contract 2.6, 2.10).
//!
//! Alarms are replicated: raised and disarmed by commands, they outlive restarts. Apply knows only
//! the alarm, never the local size behind it (store-notes 7).

use std::collections::BTreeSet;

use keelson_proto::{
    error::Error,
    etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmType, RequestOp, TxnRequest, alarm_request::AlarmAction,
        request_op::Request as Operation,
    },
    keelsonpb::command::Request,
};

use crate::quota;

/// The standing alarms, by type, then member.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    standing: BTreeSet<(i32, u64)>,
}

/// What an alarm command changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AlarmChange {
    Raised(AlarmMember),
    Disarmed(AlarmMember),
}

impl Alarms {
    pub(crate) fn restore(&mut self, alarm: &AlarmMember) {
        self.standing.insert((alarm.alarm, alarm.member_id));
    }

    /// Standing alarms of a type; of all types for NONE.
    #[must_use]
    pub fn list(&self, of_type: i32) -> Vec<AlarmMember> {
        self.standing
            .iter()
            .filter(|(alarm, _)| of_type == AlarmType::None as i32 || *alarm == of_type)
            .map(|&(alarm, member_id)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// Whether any member has raised this alarm.
    #[must_use]
    pub fn stands(&self, alarm: AlarmType) -> bool {
        let alarm = alarm as i32;
        let mut of_type = self.standing.range((alarm, 0)..=(alarm, u64::MAX));
        of_type.next().is_some()
    }

    /// Bytes of the state items, for the db size: keys of 18 bytes, values of at most 13.
    pub(crate) fn state_bytes(&self) -> u64 {
        31 * self.standing.len() as u64
    }

    /// Applies a command. An action that does not exist changes nothing and lists nothing.
    pub(crate) fn apply(
        &mut self,
        request: &AlarmRequest,
    ) -> (Vec<AlarmMember>, Option<AlarmChange>) {
        let alarm = AlarmMember {
            member_id: request.member_id,
            alarm: request.alarm,
        };
        let known = [AlarmType::Nospace as i32, AlarmType::Corrupt as i32].contains(&alarm.alarm);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => (self.list(request.alarm), None),
            Ok(AlarmAction::Activate) if known => {
                let raised = self.standing.insert((alarm.alarm, alarm.member_id));
                (vec![alarm], raised.then_some(AlarmChange::Raised(alarm)))
            }
            Ok(AlarmAction::Deactivate)
                if self.standing.remove(&(alarm.alarm, alarm.member_id)) =>
            {
                (vec![alarm], Some(AlarmChange::Disarmed(alarm)))
            }
            _ => (Vec::new(), None),
        }
    }

    /// The first layer of apply: refuses what a standing alarm forbids. CORRUPT weighs more.
    pub(crate) fn admit(&self, request: &Request) -> Result<(), Error> {
        if self.standing.is_empty() {
            return Ok(());
        }
        if self.stands(AlarmType::Corrupt) && changes_data(request) {
            return Err(Error::Corrupt);
        }
        if self.stands(AlarmType::Nospace) && needs_space(request) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }
}

fn needs_space(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::LeaseGrant(_) => true,
        Request::Txn(txn) => quota::txn_cost_bytes(txn) > 0,
        _ => false,
    }
}

fn changes_data(request: &Request) -> bool {
    match request {
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compaction(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_) => true,
        Request::Txn(txn) => may_write(txn),
        _ => false,
    }
}

/// Whether either branch holds a write, nested transactions included.
#[must_use]
pub fn may_write(txn: &TxnRequest) -> bool {
    let writes = |operation: &RequestOp| match &operation.request {
        Some(Operation::RequestPut(_) | Operation::RequestDeleteRange(_)) => true,
        Some(Operation::RequestTxn(nested)) => may_write(nested),
        _ => false,
    };
    txn.success.iter().chain(&txn.failure).any(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_proto::etcdserverpb::{DeleteRangeRequest, LeaseRevokeRequest, PutRequest};

    fn request(action: i32, member_id: u64, alarm: AlarmType) -> AlarmRequest {
        AlarmRequest {
            action,
            member_id,
            alarm: alarm as i32,
        }
    }

    #[test]
    fn raise_list_disarm() {
        let mut alarms = Alarms::default();
        let nospace = AlarmMember {
            member_id: 7,
            alarm: AlarmType::Nospace as i32,
        };
        let raise = request(1, 7, AlarmType::Nospace);
        let raised = Some(AlarmChange::Raised(nospace));
        assert_eq!(alarms.apply(&raise), (vec![nospace], raised));
        assert_eq!(alarms.apply(&raise), (vec![nospace], None));
        assert_eq!(
            alarms.apply(&request(1, 7, AlarmType::None)),
            (vec![], None)
        );
        assert_eq!(
            alarms.apply(&request(9, 7, AlarmType::Nospace)),
            (vec![], None)
        );
        assert_eq!(alarms.apply(&request(0, 0, AlarmType::Corrupt)).0, vec![]);
        assert_eq!(
            alarms.apply(&request(0, 0, AlarmType::None)).0,
            vec![nospace]
        );
        assert_eq!(
            alarms.apply(&request(2, 8, AlarmType::Nospace)),
            (vec![], None)
        );
        assert_eq!(
            alarms.apply(&request(2, 7, AlarmType::Nospace)).0,
            vec![nospace]
        );
        assert_eq!(alarms.state_bytes(), 0);
    }

    #[test]
    fn what_alarms_forbid() {
        let mut alarms = Alarms::default();
        let put = Request::Put(PutRequest::default());
        let delete = Request::DeleteRange(DeleteRangeRequest::default());
        let revoke = Request::LeaseRevoke(LeaseRevokeRequest::default());
        let empty = Request::Txn(TxnRequest::default());
        assert_eq!(alarms.admit(&put), Ok(()));
        alarms.apply(&request(1, 7, AlarmType::Nospace));
        assert_eq!(alarms.admit(&put), Err(Error::NoSpace));
        for free in [&delete, &revoke, &empty] {
            assert_eq!(alarms.admit(free), Ok(()));
        }
        alarms.apply(&request(1, 7, AlarmType::Corrupt));
        for stopped in [&put, &delete, &revoke] {
            assert_eq!(alarms.admit(stopped), Err(Error::Corrupt));
        }
        assert_eq!(alarms.admit(&empty), Ok(()));
    }
}
