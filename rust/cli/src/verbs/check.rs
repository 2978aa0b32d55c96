//! `polmrs check`.

use crate::args::Check;
use polmrs_core::{Error, Result};
use polmrs_quant::check::check_folder;

pub(crate) fn check(args: &Check) -> Result<()> {
    let path = args.path.display().to_string();
    let checked = check_folder(&args.path)?;
    let format = checked.format.map(|format| format.name());
    if args.json {
        println!("{}", checked.to_json());
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
