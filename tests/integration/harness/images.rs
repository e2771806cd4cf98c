//! Generated images, and a parser for JPEG segments.

/// A PNG of one colour, different for each seed.
pub fn png(width: u32, height: u32, seed: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels = [seed, 128, 255 - seed].repeat((width * height) as usize);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).expect("a PNG");
    bytes
}

/// Marker and payload of the segments of a JPEG before its coded data.
pub fn segments(jpeg: &[u8]) -> Vec<(u8, &[u8])> {
    assert_eq!(&jpeg[..2], [0xFF, 0xD8], "not a JPEG");
    let (mut segments, mut at) = (Vec::new(), 2);
    loop {
        assert_eq!(jpeg[at], 0xFF, "no marker at {at}");
        let (marker, length) = (jpeg[at + 1], usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]])));
        segments.push((marker, &jpeg[at + 4..at + 2 + length]));
        at += 2 + length;
        // Start of scan: coded data follows.
        if marker == 0xDA {
            return segments;
        }
    }
}

/// Width and height of a JPEG.
pub fn jpeg_size(jpeg: &[u8]) -> (u64, u64) {
    let frame = segments(jpeg).into_iter().find(|(marker, _)| matches!(marker, 0xC0..=0xC2)).expect("a frame").1;
    let number = |at: usize| u64::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    (number(3), number(1))
}
