//! `icecore gateway`: enroll, list and revoke gateways; send readings as one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ingest::client::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, SERVER_NAME_FILE};

use super::table::text_table;
use super::{DataDirArgs, block_on, caller, now, output, send, simulate};
use crate::advice::Advise as _;
use crate::config::{self, Overrides};
use control::data_dir::DataDir;
use control::pki::GATEWAY_DAYS;
use control::private_file;
use control::{Control, Enrolment, Identity, NewGateway};
use problem::{Problem, Result};

/// Enroll, list and revoke gateways (beside a running server, which learns of it at once); send readings as one.
#[derive(Debug, Args)]
pub(super) struct GatewayArgs {
    #[command(subcommand)]
    command: GatewayCommand,
}

#[derive(Debug, Subcommand)]
enum GatewayCommand {
    /// Make a gateway's identity: certificate, key, CA and server name in a new directory
    Enroll(EnrollArgs),
    /// List gateways
    List {
        /// Only those of this organisation
        #[arg(long, value_name = "ORG")]
        org: Option<String>,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    /// Revoke a gateway's certificate; it is shut out within two seconds
    Revoke {
        /// Its name
        name: String,
        /// Its organisation
        #[arg(long, value_name = "ORG")]
        org: String,
        #[command(flatten)]
        data_dir: DataDirArgs,
    },
    // Without a text here: it would take the place of the command's own, which says what to expect of it.
    Send(send::SendArgs),
    /// Send the readings of a simulated fleet
    Simulate(simulate::SimulateArgs),
}

#[derive(Debug, Args)]
struct EnrollArgs {
    /// Its name
    name: String,
    /// Its organisation
    #[arg(long, value_name = "ORG")]
    org: String,
    /// The directory to make for the identity
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the certificate is good for
    #[arg(long, value_name = "DAYS", default_value_t = GATEWAY_DAYS)]
    days: u32,
    /// The name that the server's certificate bears, instead of the first of ingest.server_names
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    #[command(flatten)]
    data_dir: DataDirArgs,
}

pub(super) fn run(args: &GatewayArgs) -> Result<()> {
    match &args.command {
        GatewayCommand::Enroll(args) => block_on(async {
            let data = args.data_dir.open();
            let server_name = match &args.server_name {
                Some(name) => name.clone(),
                None => first_server_name(&data)?,
            };
            let control = data.open_control().await.advise()?;
            let gateway = Enrollment { org: &args.org, name: &args.name, server_name: &server_name, days: args.days };
            enroll(&control, &data, &gateway, &args.out).await?;
            control.close().await;
            output::line(format_args!("enrolled gateway {} of {} in {}", args.name, args.org, args.out.display()))
        }),
        GatewayCommand::List { org, data_dir } => block_on(list(org.as_deref(), data_dir)),
        GatewayCommand::Revoke { name, org, data_dir } => block_on(async {
            let control = data_dir.open().open_control().await.advise()?;
            let org = control.org(org).await.advise()?;
            let id = control.revoke_gateway(&caller(), org.id, name, now()).await.advise()?;
            control.close().await;
            output::line(format_args!("revoked gateway {name} {id} of {}", org.name))
        }),
        GatewayCommand::Send(args) => send::run(args),
        GatewayCommand::Simulate(args) => simulate::run(args),
    }
}

/// The first server name of the default configuration, with what the environment changes in it.
pub(super) fn default_server_name() -> Result<String> {
    let mut names = config::parse("", Path::new("config.toml"), &Overrides::default())?.ingest.server_names;
    Ok(names.swap_remove(0))
}

/// The name that identities carry: the first one of the server's certificate.
pub(super) fn first_server_name(data: &DataDir) -> Result<String> {
    data.check().advise()?;
    let mut names = config::load(&data.config(), &Overrides::default())?.ingest.server_names;
    Ok(names.swap_remove(0))
}

/// A gateway to be.
pub(super) struct Enrollment<'a> {
    pub(super) org: &'a str,
    pub(super) name: &'a str,
    pub(super) server_name: &'a str,
    pub(super) days: u32,
}

/// Enrolls a gateway, and writes its identity into a new directory before the control database knows it. Files of an
/// enrolment that did not get into the database open nothing, and their directory has to be removed before the next try.
pub(super) async fn enroll(control: &Control, data: &DataDir, gateway: &Enrollment<'_>, out: &Path) -> Result<()> {
    if out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || out.is_file() {
        return Err(Problem::new(format!("{} is there already, and not empty", out.display())).help(
            "name a new directory: an identity is never overwritten. If an earlier enrolment was interrupted here, so \
                 that `icecore gateway list` does not show the gateway, remove the directory first",
        ));
    }
    let new = NewGateway { org: gateway.org, name: gateway.name, days: gateway.days };
    let enrolment = Enrolment::open(control, data).advise()?;
    let keep = |identity: &Identity| write(identity, gateway.server_name, out);
    enrolment.enroll(&caller(), &new, now(), keep).await.advise().map(drop)
}

fn write(identity: &Identity, server_name: &str, out: &Path) -> control::Result<()> {
    private_file::create_dir(out)?;
    private_file::create(&out.join(KEY_FILE), &identity.key_pem)?;
    private_file::create(&out.join(CERTIFICATE_FILE), &identity.certificate_pem)?;
    private_file::create(&out.join(CA_FILE), &identity.ca_pem)?;
    private_file::create(&out.join(SERVER_NAME_FILE), &format!("{server_name}\n"))?;
    private_file::create(&out.join("gateway.toml"), &description(identity, server_name))
}

/// Says, for people, what an identity is. Names have no quotes or backslashes in them.
fn description(identity: &Identity, server_name: &str) -> String {
    let Identity { gateway, name, org, org_name, expires, .. } = identity;
    format!(
        "# A gateway's identity for icecore. Keep gateway.key.pem secret: whoever holds it can send as this gateway.\n\
         name = \"{name}\"\ngateway = \"{gateway}\"\norg = \"{org_name}\"\norg_id = \"{org}\"\n\
         server_name = \"{server_name}\"\nexpires = \"{expires}\"\n"
    )
}

async fn list(org: Option<&str>, data_dir: &DataDirArgs) -> Result<()> {
    let control = data_dir.open().open_control().await.advise()?;
    let only = match org {
        Some(name) => Some(control.org(name).await.advise()?.id),
        None => None,
    };
    let gateways = control.gateways().await.advise()?.into_iter();
    let now = now();
    let rows = gateways.filter(|gateway| only.is_none_or(|only| only == gateway.org)).map(|gateway| {
        let standing = match gateway.revoked {
            Some(at) => format!("revoked {at}"),
            None if gateway.expires <= now => "expired".to_owned(),
            None => String::new(),
        };
        let id = gateway.id.to_string();
        // Readings name the gateway by its number.
        let number = gateway.id.get().to_string();
        vec![gateway.org_name, gateway.name, id, number, gateway.expires.to_string(), standing]
    });
    output::line(text_table(&["organisation", "name", "id", "number", "expires", "standing"], rows))
}
