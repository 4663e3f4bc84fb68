//! Pieces of HTML. Everything that comes from a record goes through
//! [`escaped`].

use std::fmt::Write as _;

/// Text as content or as an attribute in double quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in HTML.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A table that scrolls by itself where it is too wide, and can be reached by
/// keyboard for that.
pub fn table(label: &str, columns: &[String], rows: &[Vec<String>]) -> String {
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table><thead><tr>",
        escaped(label)
    );
    // A column is of figures if every cell of it that is not empty is one.
    let figures: Vec<bool> = (0..columns.len())
        .map(|i| {
            i > 0 && rows.iter().filter_map(|r| r.get(i)).all(|c| c.is_empty() || is_figure(c))
        })
        .collect();
    let class = |i: usize| if figures.get(i) == Some(&true) { " class=\"n\"" } else { "" };
    for (index, column) in columns.iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(index), escaped(column));
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (index, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(index), escaped(cell));
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

/// A table that opens on demand.
pub fn folded(summary: &str, inner: &str) -> String {
    format!("<details><summary>{}</summary>{inner}</details>", escaped(summary))
}

/// A list of sentences; empty for none.
pub fn list(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|l| format!("<li>{}</li>", escaped(l))).collect();
    format!("<ul>{items}</ul>")
}

fn is_figure(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '−' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_text_or_attribute() {
        assert_eq!(
            escaped("<a href=\"x\">'&\u{1}"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}"
        );
    }
}
