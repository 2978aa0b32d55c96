//! `polmrs data tokenize`. A build without the feature `text` says so.

use crate::args::data::Tokenize;
use polmrs_core::{Ctl, Result};

#[cfg(feature = "text")]
pub(crate) fn tokenize(args: &Tokenize, ctl: &Ctl) -> Result<()> {
    use super::input::Input;
    use crate::progress::shown;
    use polmrs_batch::store::Writer;
    use polmrs_batch::text::{Settings, Tokenizer};

    let mut writer = Writer::create(&args.out, false, args.overwrite)?;
    let settings = Settings { special_tokens: args.special_tokens, eos: args.eos.clone(), max_length: args.max_length };
    let tokenizer = Tokenizer::open(&args.tokenizer, &settings)?;
    let input = Input::open(&args.input, args.format)?;
    shown(args.quiet, "tokenizing", ctl, || input.tokenize(&args.field, &tokenizer, &mut writer, ctl))?;
    let layout = writer.finish()?;
    let (name, rows, tokens) = (input.name(), layout.rows, layout.tokens);
    if args.json {
        let report = serde_json::json!({
            "schema": "polmrs.tokenize/1",
            "input": name,
            "tokenizer": args.tokenizer.display().to_string(),
            "documents": rows,
            "tokens": tokens,
        });
        println!("{report}");
    } else {
        println!("{name}: {tokens} tokens in {rows} rows");
    }
    Ok(())
}

#[cfg(not(feature = "text"))]
pub(crate) fn tokenize(_: &Tokenize, _: &Ctl) -> Result<()> {
    let how = "build with --features text, or take the one of the Python package";
    Err(polmrs_core::Error::Usage(format!("data tokenize: this program was built without the feature 'text'; {how}")))
}

#[cfg(all(test, not(feature = "text")))]
mod tests {
    #[test]
    fn a_build_without_it_names_the_feature() {
        let command = ["polmrs", "data", "tokenize", "in.txt", "out.tokens", "--tokenizer", "tokenizer.json"];
        assert_eq!(crate::run(command.map(Into::into), &polmrs_core::Ctl::new()), 2);
    }
}
