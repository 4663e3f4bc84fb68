//! PNG from SVG, with a font that is part of the program: a bare machine has
//! none.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use super::Plot;
use crate::report::ReportError;

/// Pixels of the PNG to one of the SVG, for dense screens.
const SCALE: f32 = 1.5;

/// The plot as a PNG file.
pub fn png(plot: &Plot) -> Result<Vec<u8>, ReportError> {
    let refusal = |reason: String| ReportError::Draw { plot: plot.name.clone(), reason };
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let tree = Tree::from_str(&plot.svg, &options).map_err(|e| refusal(e.to_string()))?;
    let size = tree
        .size()
        .to_int_size()
        .scale_by(SCALE)
        .ok_or_else(|| refusal("it has no size".to_owned()))?;
    let mut pixmap = Pixmap::new(size.width(), size.height())
        .ok_or_else(|| refusal("it is too large".to_owned()))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|e| refusal(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark_pixels(content: &str) -> usize {
        let svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='100' height='40'><rect width='100' height='40' fill='white'/>{content}</svg>"
        );
        let bytes = png(&Plot { name: "test".into(), svg }).expect("draws");
        let pixmap = Pixmap::decode_png(&bytes).expect("a PNG");
        pixmap.pixels().iter().filter(|p| p.red() < 128).count()
    }

    #[test]
    fn text_is_drawn_with_the_programs_own_font() {
        assert_eq!(dark_pixels(""), 0);
        let text = "<text x='5' y='30' font-family='sans-serif' font-size='24'>1 µs</text>";
        assert!(dark_pixels(text) > 50);
    }
}
