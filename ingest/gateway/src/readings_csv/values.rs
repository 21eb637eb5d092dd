//! Numbers in cells, and the units that they come in.

use storage_format::Channel;

use super::error::shown;

/// The unit of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unit {
    /// The channel's own.
    #[default]
    Own,
    /// °F, turned into °C.
    Fahrenheit,
}

/// The unit of this name.
pub(super) fn parse_unit(channel: &Channel, text: &str) -> Result<Unit, String> {
    let own: &[&str] = match channel.name {
        "temperature" => &["C", "°C", "Cel", "Celsius"],
        "humidity" => &["%", "%RH", "%rh"],
        "rssi" => &["dBm", "dB[mW]"],
        "co2" => &["ppm", "[ppm]"],
        _ => &[channel.unit],
    };
    if own.contains(&text) {
        return Ok(Unit::Own);
    }
    if channel.name == "temperature" && matches!(text, "F" | "°F" | "Fahrenheit") {
        return Ok(Unit::Fahrenheit);
    }
    let known = if channel.name == "temperature" { "°C or °F" } else { own[0] };
    Err(format!("{text:?} is no unit of {} that can be read here: it has to be in {known}", channel.name))
}

/// The value of a cell, in the channel's own unit.
pub(super) fn value(cell: &[u8], decimal_comma: bool, unit: Unit) -> Result<f64, String> {
    let text = std::str::from_utf8(cell).map_err(|_| format!("{} is not a number", shown(cell)))?;
    let point;
    let text = if decimal_comma && text.contains([',', '.']) {
        if text.contains('.') {
            let what = "has a decimal point, where decimal commas are expected";
            return Err(format!("{} {what}: it could be a thousands separator", shown(cell)));
        }
        point = text.replacen(',', ".", 1);
        &point
    } else {
        text
    };
    let value: f64 = text.parse().map_err(|_| not_a_number(cell))?;
    if !value.is_finite() {
        return Err(format!("{} is not a finite number; {}", shown(cell), missing_help(cell)));
    }
    Ok(match unit {
        Unit::Own => value,
        Unit::Fahrenheit => to_celsius(value, text),
    })
}

fn missing_help(cell: &[u8]) -> String {
    format!("if it means \"not measured\", --missing '{}' says so", String::from_utf8_lossy(cell).escape_debug())
}

fn not_a_number(cell: &[u8]) -> String {
    let what = format!("{} is not a number", shown(cell));
    let text = String::from_utf8_lossy(cell);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let parts: Vec<_> = digits.split(',').collect();
    let is_digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() == 2 && parts.iter().all(is_digits) {
        return format!("{what}: it has a decimal comma, which --decimal-comma reads");
    }
    // A long cell is no mark, and would only fill the screen.
    if cell.len() <= 16 && !cell.is_empty() && !cell.starts_with(b"\"") && !text.contains(char::is_control) {
        return format!("{what}; {}", missing_help(cell));
    }
    what
}

/// In °C, with two decimals more than the text has: a hundredth of the last digit of a thermometer in °F.
fn to_celsius(fahrenheit: f64, text: &str) -> f64 {
    let celsius = (fahrenheit - 32.0) * 5.0 / 9.0;
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let Ok(decimals @ 0..=7) = i32::try_from(decimals) else { return celsius };
    let scale = 10_f64.powi(decimals + 2);
    // Adding zero turns -0.0 into 0.0.
    (celsius * scale).round() / scale + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_commas_are_read_only_when_stated() {
        assert_eq!(value(b"-4,5", true, Unit::Own), Ok(-4.5));
        assert_eq!(value(b"4", true, Unit::Own), Ok(4.0));
        assert!(value(b"1.234", true, Unit::Own).expect_err("thousands?").contains("thousands"));
        assert!(value(b"1,2,3", true, Unit::Own).is_err());
        assert!(value(b"1,5", false, Unit::Own).expect_err("a comma").contains("--decimal-comma"));
        assert!(value(b"---", false, Unit::Own).expect_err("a mark").contains("--missing '---'"));
        assert!(value(b"NaN", false, Unit::Own).expect_err("not finite").contains("--missing 'NaN'"));
    }

    #[test]
    fn fahrenheit_becomes_celsius_without_noise() {
        for (text, celsius) in [
            ("40.1", 4.5),
            ("32", 0.0),
            ("-40", -40.0),
            ("41.0", 5.0),
            ("39.9", 4.389),
            ("212.0", 100.0),
            ("98.6", 37.0),
        ] {
            assert_eq!(value(text.as_bytes(), false, Unit::Fahrenheit), Ok(celsius), "{text}");
        }
        assert_eq!(value(b"40,1", true, Unit::Fahrenheit), Ok(4.5));
        let temperature = Channel::by_name("temperature").expect("a channel");
        assert_eq!(parse_unit(temperature, "°F"), Ok(Unit::Fahrenheit));
        assert!(parse_unit(temperature, "K").is_err());
        assert!(parse_unit(Channel::by_name("pressure").expect("a channel"), "psi").is_err());
    }
}
