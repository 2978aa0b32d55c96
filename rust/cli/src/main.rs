//! The standalone command: no Python needed.

fn main() {
    std::process::exit(polmrs_cli::main(std::env::args_os()));
}
