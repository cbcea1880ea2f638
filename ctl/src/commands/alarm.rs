//! `alarm`: what is wrong, and that it has been mended (contract 2.10).

use clap::Subcommand;
use keelson_client::Client;
use keelson_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, alarm_request::AlarmAction,
};

use crate::cli::{Global, Ignored};
use crate::connect::online;
use crate::exit::CommandError;
use crate::output::{Reply, Text, shown_as_message};

/// Commands on alarms.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Alarm {
    /// Lists all alarms
    List(Ignored),
    /// Disarms all alarms
    Disarm(Ignored),
}

/// Runs one of them.
pub(super) fn run(global: &Global, alarm: &Alarm) -> Result<(), CommandError> {
    let (name, given) = match alarm {
        Alarm::List(given) => ("list", given),
        Alarm::Disarm(given) => ("disarm", given),
    };
    if !given.args.is_empty() {
        let reason = format!("alarm {name} command accepts no arguments");
        return Err(CommandError::BadArguments(reason));
    }
    online(global, async |session| {
        let client = session.call();
        let response = match alarm {
            Alarm::List(_) => client.alarm(AlarmRequest::default()).await?,
            Alarm::Disarm(_) => disarm(&client).await?,
        };
        session.output.show(&response)
    })
}

/// Each by itself; what is shown has no header, as it is no server's answer.
async fn disarm(client: &Client) -> Result<AlarmResponse, CommandError> {
    let mut disarmed = AlarmResponse::default();
    for alarm in client.alarm(AlarmRequest::default()).await?.alarms {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        disarmed.alarms.extend(client.alarm(request).await?.alarms);
    }
    Ok(disarmed)
}

impl Reply for AlarmResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        for alarm in &self.alarms {
            let kind = kind(alarm);
            // Go leaves a zero out.
            let member = match alarm.member_id {
                0 => String::new(),
                id => format!("memberID:{id} "),
            };
            out.line(format_args!("{member}alarm:{kind}"));
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        for alarm in &self.alarms {
            out.id("MemberID", alarm.member_id);
            out.field("AlarmType", kind(alarm));
            out.line("");
        }
        Some(())
    }
}

fn kind(alarm: &AlarmMember) -> String {
    match AlarmType::try_from(alarm.alarm) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => alarm.alarm.to_string(),
    }
}
