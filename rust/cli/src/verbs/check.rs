//! `polmrs check`.

use crate::args::Check;
use polmrs_core::{Error, Result};
use polmrs_engine::source::CheckpointSource;
use polmrs_io::safetensors::Checkpoint;
use polmrs_model::folder::read_json;
use polmrs_quant::check::{Finding, check as look};
use serde_json::{Value as Json, json};

pub(crate) fn check(args: &Check) -> Result<()> {
    let path = args.path.display().to_string();
    let source = CheckpointSource::new(&path, Checkpoint::open(&args.path)?);
    let config = read_json(&args.path.join("config.json"))?;
    let checked = look(&source, config.as_ref().unwrap_or(&Json::Null))?;
    let format = checked.format.map(|format| format.name());
    if args.json {
        let row = |finding: &Finding| json!({"place": finding.place, "what": finding.what});
        println!(
            "{}",
            json!({
                "schema": "polmrs.check/1",
                "format": format,
                "quantized": checked.modules,
                "findings": checked.findings.iter().map(row).collect::<Vec<_>>(),
            })
        );
    } else {
        checked.findings.iter().for_each(|finding| println!("{}: {}", finding.place, finding.what));
    }
    match (checked.findings.len(), format) {
        (0, _) if args.json => Ok(()),
        (0, Some(format)) => {
            println!("{path}: {format}, {} quantized layers, nothing to trip over", checked.modules);
            Ok(())
        }
        (0, None) => {
            println!("{path}: not quantized");
            Ok(())
        }
        (count, _) => Err(Error::Checkpoint(format!("{path}: {count} finding(s)"))),
    }
}
