//! Users and the console's users: passwords that work, databases that exist.

use std::collections::{BTreeMap, BTreeSet};

use super::errors::{Complaint, Place, Problems};
use super::hints::nearest;
use super::raw::{RawAdmin, RawConfig, RawUser};
use super::read::{Located, Several};
use super::resolve::{Outside, check_pool, pool_overrides};
use super::{AdminSettings, AuthMethod, ClientPassword, Config, Secret, User, password};

/// The users of the console.
pub(super) fn admin(raw: Option<&Located<RawAdmin>>) -> AdminSettings {
    let names = |list: Option<&Located<Several<String>>>| {
        list.map(|l| l.value.0.iter().map(|name| name.value.clone()).collect()).unwrap_or_default()
    };
    raw.map_or_else(AdminSettings::default, |raw| AdminSettings {
        users: names(raw.value.users.as_ref()),
        stats_users: names(raw.value.stats_users.as_ref()),
    })
}

/// The users; `config` has everything else already.
pub(super) fn users(
    all: &RawConfig,
    config: &Config,
    outside: &Outside<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, User> {
    let raw = all.users.as_ref();
    let named = raw.map(|raw| raw.value.0.as_slice()).unwrap_or_default();
    // Databases with errors of their own are there in `all` only; they exist all the same.
    let databases = all.databases.as_ref().map(|d| d.value.0.as_slice()).unwrap_or_default();
    let databases: Vec<&str> = databases.iter().map(|(name, ..)| name.as_str()).collect();
    if named.is_empty() && config.auth.method != AuthMethod::Trust && !problems.concern("users") {
        let place = raw.map_or_else(Place::root, |raw| raw.place.clone());
        let complaint = Complaint::new("no user is configured: nobody could log in")
            .hint("the smallest is: users: {app: {password: \"${APP_PASSWORD}\"}}");
        problems.push(&place, complaint);
    }
    let mut users = BTreeMap::new();
    for (name, place, raw) in named {
        check_databases(raw, &databases, problems);
        users.insert(name.clone(), user(name, place, raw, config, outside, problems));
    }
    users
}

fn user(
    name: &str,
    place: &Place,
    raw: &RawUser,
    config: &Config,
    outside: &Outside<'_>,
    problems: &mut Problems,
) -> User {
    let server_password = secret(raw.server_password.as_ref(), outside, problems);
    let server_password = server_password.map(|(_, text)| Secret::new(text));
    let password = secret(raw.password.as_ref(), outside, problems).and_then(|(raw, text)| {
        if text.is_empty() {
            let complaint = Complaint::new("is empty; PostgreSQL accepts no empty password");
            problems.push(&raw.place, complaint);
            return None;
        }
        let password = problems.keep(&raw.place, password::classify(text, &raw.place.origin))?;
        check_method(&password, config.auth.method, &raw.place, problems);
        Some(password)
    });
    let user = User {
        name: name.to_owned(),
        password,
        server_user: raw.server_user.as_ref().map(|u| u.value.clone()),
        server_password,
        databases: raw.databases.as_ref().map(|list| list.value.0.iter().map(|d| d.value.clone()).collect()),
        pool: pool_overrides(raw.pool.as_ref(), problems),
        consistency: raw.consistency.as_ref().map(|level| level.value),
    };
    check_login(&user, raw, place, config, problems);
    let usable = config.databases.values().chain(&config.wildcard_database);
    for database in usable.filter(|d| user.databases.as_ref().is_none_or(|names| names.contains(&d.name))) {
        check_pool(&database.pool.with(&user.pool), raw.pool.as_ref(), problems);
    }
    user
}

/// A secret with its references replaced.
fn secret<'a>(
    raw: Option<&'a Located<String>>,
    outside: &Outside<'_>,
    problems: &mut Problems,
) -> Option<(&'a Located<String>, String)> {
    let raw = raw?;
    let text = problems.keep(&raw.place, password::resolve(&raw.value, &raw.place.origin, outside))?;
    Some((raw, text))
}

/// Whether clients can prove this password with the method asked of them.
fn check_method(password: &ClientPassword, method: AuthMethod, place: &Place, problems: &mut Problems) {
    let (form, wanted) = match (password, method) {
        (ClientPassword::Md5Hash(_), AuthMethod::ScramSha256) => ("an md5 hash", "md5 or password"),
        (ClientPassword::ScramVerifier(_), AuthMethod::Md5) => {
            ("a SCRAM verifier", "scram-sha-256 or password")
        }
        _ => return,
    };
    let complaint = Complaint::new(format!("{form} cannot be used with auth.method {}", method.as_str()))
        .hint(format!("give the password as plain text, or set auth.method to {wanted}"));
    problems.push(place, complaint);
}

/// Whether this user can log in here, and from here to the servers.
fn check_login(user: &User, raw: &RawUser, place: &Place, config: &Config, problems: &mut Problems) {
    let console_only = user.databases.as_ref().is_some_and(Vec::is_empty)
        || config.admin.users.contains(&user.name)
        || config.admin.stats_users.contains(&user.name);
    let has_none = raw.password.is_none() && raw.server_password.is_none();
    if has_none && config.auth.method != AuthMethod::Trust && !problems.concern(&place.path) {
        let complaint = Complaint::new("has no password, so it cannot log in")
            .hint("add password: \"${VARIABLE}\", or server_password: for a user of health probes only");
        problems.push(place, complaint);
    }
    if let (Some(ClientPassword::ScramVerifier(_) | ClientPassword::Md5Hash(_)), None, false) =
        (&user.password, &raw.server_password, console_only)
    {
        let complaint = Complaint::new(
            "cannot log in to servers: its password is a hash, from which the password cannot be had",
        )
        .hint("add server_password:, or server_password: \"\" when the servers ask this user for none");
        problems.push(place, complaint);
    }
}

fn check_databases(raw: &RawUser, databases: &[&str], problems: &mut Problems) {
    let Some(list) = &raw.databases else { return };
    for name in &list.value.0 {
        if !databases.contains(&name.value.as_str()) && !databases.contains(&"*") {
            problems.push(&name.place, unknown("database", &name.value, databases));
        }
    }
}

/// What concerns users and is said elsewhere: console users, the user of probes.
pub(super) fn check(raw: &RawConfig, config: &Config, problems: &mut Problems) {
    // Users with errors of their own are there in `raw` only; they exist all the same.
    let names = raw.users.as_ref().map(|u| u.value.0.as_slice()).unwrap_or_default();
    let names: Vec<&str> = names.iter().map(|(name, ..)| name.as_str()).collect();
    let admin = raw.admin.as_ref().map(|a| &a.value);
    let lists = [admin.and_then(|a| a.users.as_ref()), admin.and_then(|a| a.stats_users.as_ref())];
    let mut seen = BTreeSet::new();
    for name in lists.into_iter().flatten().flat_map(|list| &list.value.0) {
        if !seen.insert(&name.value) {
            let complaint = Complaint::new(format!("{:?} is given twice", name.value))
                .hint("a user in admin.users may do all that stats_users may");
            problems.push(&name.place, complaint);
        }
        if config.auth.method == AuthMethod::Trust {
            continue;
        }
        let user = raw.users.as_ref().and_then(|u| u.value.0.iter().find(|(n, ..)| *n == name.value));
        match user {
            None => problems.push(&name.place, unknown("user", &name.value, &names)),
            Some((_, _, user)) if user.password.is_none() => {
                let complaint = Complaint::new(format!("user {:?} has no password", name.value))
                    .hint("console users log in like all others: give them a password under users:");
                problems.push(&name.place, complaint);
            }
            Some(_) => {}
        }
    }
    let Some(user) = raw.health.as_ref().and_then(|h| h.value.user.as_ref()) else { return };
    if !names.contains(&user.value.as_str()) {
        problems.push(&user.place, unknown("user", &user.value, &names));
    }
}

fn unknown(kind: &str, name: &str, known: &[&str]) -> Complaint {
    let complaint = Complaint::new(format!("there is no {kind} {}", super::errors::shown(name)));
    match nearest(name, known) {
        Some(near) => complaint.hint(format!("did you mean {near:?}?")),
        None if known.is_empty() => complaint,
        None => complaint.hint(format!("known are: {}", known.join(", "))),
    }
}
