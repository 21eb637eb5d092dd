//! `icecore gateway`: enroll, list and revoke gateways; send readings as one.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ingest::client::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, SERVER_NAME_FILE};

use super::table::text_table;
use super::{DataDirArgs, block_on, now, output, send, simulate};
use crate::config::{self, Overrides};
use control::data_dir::DataDir;
use control::pki::{Authority, GATEWAY_DAYS};
use control::private_file;
use control::{Control, NewGateway};
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
    /// Take a gateway's certificate back; it is shut out within a second or so
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
    #[arg(long, value_name = "DAYS", default_value_t = GATEWAY_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
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
            let control = data.open_control().await?;
            let gateway = Enrollment { org: &args.org, name: &args.name, server_name: &server_name, days: args.days };
            enroll(&control, &data, &gateway, &args.out).await?;
            control.close().await;
            output::line(format_args!("enrolled gateway {} of {} in {}", args.name, args.org, args.out.display()))
        }),
        GatewayCommand::List { org, data_dir } => block_on(list(org.as_deref(), data_dir)),
        GatewayCommand::Revoke { name, org, data_dir } => block_on(async {
            let control = data_dir.open().open_control().await?;
            let org = control.org(org).await?;
            let id = control.revoke_gateway(org.id, name, now()).await?;
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
    data.check()?;
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

/// Makes a gateway's identity and lets the control database know it.
///
/// Crash consistency: the files are written first. Files of an enrolment that did not get into the database open
/// nothing, and their directory has to be removed before the next try.
pub(super) async fn enroll(control: &Control, data: &DataDir, gateway: &Enrollment<'_>, out: &Path) -> Result<()> {
    let org = control.org(gateway.org).await?;
    control.check_gateway_name(org.id, gateway.name).await?;
    if out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || out.is_file() {
        return Err(Problem::new(format!("{} is there already, and not empty", out.display()))
            .help("name a new directory: an identity is never overwritten"));
    }
    let id = Control::new_gateway_id()?;
    let authority = Authority::load(&data.keys())?;
    let issued = authority.issue_gateway(org.id, id, now(), gateway.days)?;
    private_file::create_dir(out)?;
    private_file::create(&out.join(KEY_FILE), &issued.key_pem)?;
    private_file::create(&out.join(CERTIFICATE_FILE), &issued.certificate_pem)?;
    private_file::create(&out.join(CA_FILE), authority.pem())?;
    private_file::create(&out.join(SERVER_NAME_FILE), &format!("{}\n", gateway.server_name))?;
    private_file::create(&out.join("gateway.toml"), &description(gateway, org.id, id, issued.expires))?;
    let fingerprint = issued.fingerprint;
    let new = NewGateway { id, org: org.id, name: gateway.name, fingerprint, expires: issued.expires };
    control.add_gateway(new, now()).await
}

/// Says, for people, what an identity is. Names have no quotes or backslashes in them.
fn description(
    gateway: &Enrollment<'_>,
    org: storage_format::OrgId,
    id: storage_format::GatewayId,
    expires: storage_format::Millis,
) -> String {
    format!(
        "# A gateway's identity for icecore. Keep gateway.key.pem secret: whoever holds it can send as this gateway.\n\
         name = \"{}\"\ngateway = \"{id}\"\norg = \"{}\"\norg_id = \"{org}\"\nserver_name = \"{}\"\nexpires = \"{expires}\"\n",
        gateway.name, gateway.org, gateway.server_name
    )
}

async fn list(org: Option<&str>, data_dir: &DataDirArgs) -> Result<()> {
    let control = data_dir.open().open_control().await?;
    let only = match org {
        Some(name) => Some(control.org(name).await?.id),
        None => None,
    };
    let gateways = control.gateways().await?.into_iter();
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
