//! Settings from the environment (contract 5.1).

use super::load::{LoadError, Notice};
use super::settings::{Settings, Source};
use super::table::{Flag, alias};

/// Variables of etcd's name that mean something else: set by container images, or read elsewhere.
const NOT_SETTINGS: [&str; 2] = ["ETCD_VERSION", "ETCD_CONFIG_FILE"];
/// Settings whose value is never logged.
const SECRETS: [&str; 2] = ["discovery-password", "discovery-user"];

/// Adds what the environment sets to what the command line set.
///
/// # Errors
/// [`LoadError::Conflict`] if both set the same, [`LoadError::Invalid`] for a malformed value.
pub(super) fn apply(
    settings: &mut Settings,
    variables: &[(String, String)],
    notices: &mut Vec<Notice>,
) -> Result<(), LoadError> {
    let mut conflict = None;
    for (variable, text) in variables {
        let ours = variable.starts_with("ETCD_") && !NOT_SETTINGS.contains(&variable.as_str());
        if !ours || text.is_empty() {
            continue;
        }
        let Some(name) = name_of(variable) else {
            notices.push(Notice::UnrecognizedVariable {
                variable: variable.clone(),
            });
            continue;
        };
        if settings.source(&name) == Some(Source::Flag) {
            conflict.get_or_insert_with(|| variable.clone());
            continue;
        }
        settings
            .set(&name, text, Source::Environment)
            .map_err(|reason| {
                LoadError::Invalid(vec![format!(
                    "invalid value {text:?} for {variable}: {reason}"
                )])
            })?;
        let value = if SECRETS.contains(&name.as_str()) {
            "(redacted)"
        } else {
            text
        };
        notices.push(Notice::UsedVariable {
            variable: variable.clone(),
            value: value.to_owned(),
        });
    }
    conflict.map_or(Ok(()), |variable| Err(LoadError::Conflict { variable }))
}

/// The setting, or the old name of one, that a variable stands for.
fn name_of(variable: &str) -> Option<String> {
    let name = variable
        .strip_prefix("ETCD_")?
        .to_ascii_lowercase()
        .replace('_', "-");
    let exact = |flag: &Flag| flag.variable() == variable;
    if Flag::named(&name).is_some_and(exact) || alias(&name).is_some() {
        return Some(name);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(
        settings: &mut Settings,
        variables: &[(&str, &str)],
    ) -> (Vec<Notice>, Result<(), LoadError>) {
        let owned = |text: &str| text.to_owned();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, text)| (owned(name), owned(text)))
            .collect();
        let mut notices = Vec::new();
        let result = apply(settings, &variables, &mut notices);
        (notices, result)
    }

    #[test]
    fn variables_set_what_flags_do_not() {
        let mut settings = Settings::default();
        let (notices, result) = applied(
            &mut settings,
            &[
                ("ETCD_NAME", "a"),
                ("ETCD_DATA_DIR", ""),
                ("ETCD_SERVICE_HOST", "10.0.0.1"),
                ("ETCD_VERSION", "3.7.1"),
                ("NAME", "b"),
                ("ETCD_DISCOVERY_PASSWORD", "secret"),
            ],
        );
        result.unwrap();
        assert_eq!(settings.text("name"), "a");
        assert_eq!(settings.source("data-dir"), None);
        assert_eq!(notices.len(), 3);
        assert!(
            matches!(&notices[1], Notice::UnrecognizedVariable { variable }
            if variable == "ETCD_SERVICE_HOST")
        );
        assert!(!format!("{notices:?}").contains("secret"));
    }

    #[test]
    fn a_flag_and_its_variable_conflict() {
        let mut settings = Settings::default();
        settings.set("name", "a", Source::Flag).unwrap();
        let (notices, result) = applied(&mut settings, &[("ETCD_NAME", "a"), ("ETCD_X", "1")]);
        assert!(matches!(result, Err(LoadError::Conflict { variable }) if variable == "ETCD_NAME"));
        assert_eq!(notices.len(), 1);
        // An empty variable is as good as none.
        assert!(applied(&mut settings, &[("ETCD_NAME", "")]).1.is_ok());
    }

    #[test]
    fn the_text_of_a_malformed_variable() {
        let (_, result) = applied(
            &mut Settings::default(),
            &[("ETCD_HEARTBEAT_INTERVAL", "abc")],
        );
        let Err(LoadError::Invalid(problems)) = result else {
            panic!("{result:?}")
        };
        assert_eq!(
            problems,
            ["invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error"]
        );
    }
}
