//! libjpeg-turbo behind a safe face: the only file that calls into C.
//!
//! Called by the decoder and the encoder of this area only. A JPEG that was decoded with a warning is never handed out as
//! if it were whole: see [`Fault`].
#![expect(unsafe_code, reason = "libjpeg-turbo is a C library")]

use super::raster::{Raster, Yuv};
use std::borrow::Cow;
use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::{ffi::c_int, slice};
use turbojpeg_sys as tj;

/// Why a JPEG could not be decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// libjpeg went on with a warning. It tells only the first one, so a harmless one may hide another.
    Warned(String),
    /// libjpeg gave up.
    Failed(String),
}

/// The colours that a JPEG stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Brightness alone, or with two colour planes of a usual resolution.
    Planes,
    /// Anything that must be decoded to RGB.
    Rgb,
    /// CMYK or YCCK.
    Cmyk,
}

/// A handle of the C library; freed on drop.
struct Handle(NonNull<std::ffi::c_void>);

// SAFETY: a handle has no ties to the thread that made it, and `&mut self` is needed for every use.
unsafe impl Send for Handle {}

impl Handle {
    fn new(kind: tj::TJINIT) -> Result<Self, String> {
        // SAFETY: takes a plain number; null is checked.
        let raw = unsafe { tj::tj3Init(kind.cast_signed()) };
        NonNull::new(raw).map(Self).ok_or_else(|| "libjpeg-turbo could not be set up".to_owned())
    }

    fn set(&mut self, param: tj::TJPARAM, value: i32) -> Result<(), String> {
        // SAFETY: the handle is live.
        let rc = unsafe { tj::tj3Set(self.0.as_ptr(), param.cast_signed(), value) };
        if rc == 0 { Ok(()) } else { Err(self.message()) }
    }

    fn get(&self, param: tj::TJPARAM) -> i32 {
        // SAFETY: the handle is live.
        unsafe { tj::tj3Get(self.0.as_ptr(), param.cast_signed()) }
    }

    fn message(&self) -> String {
        // SAFETY: the handle is live; the string is its own and is copied before the next call.
        unsafe { CStr::from_ptr(tj::tj3GetErrorStr(self.0.as_ptr())) }.to_string_lossy().into_owned()
    }

    /// What a result code means.
    fn judge(&self, rc: c_int) -> Result<(), Fault> {
        if rc == 0 {
            return Ok(());
        }
        let message = self.message();
        // SAFETY: the handle is live.
        let code = unsafe { tj::tj3GetErrorCode(self.0.as_ptr()) };
        if code != tj::TJERR_TJERR_WARNING.cast_signed() {
            return Err(Fault::Failed(message));
        }
        // Padding between the last scan and the end of the picture, as some cameras write it. libjpeg reports the first
        // warning, and this place is the last: everything before it was sound.
        if message.contains("extraneous bytes before marker 0xd9") { Ok(()) } else { Err(Fault::Warned(message)) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again.
        unsafe { tj::tj3Destroy(self.0.as_ptr()) }
    }
}

/// Decodes JPEGs.
pub struct Decompressor(Handle);

/// A JPEG whose header was read.
pub struct Opened<'a> {
    handle: &'a mut Handle,
    jpeg: &'a [u8],
    width: u32,
    height: u32,
}

impl Decompressor {
    pub fn new() -> Result<Self, String> {
        Handle::new(tj::TJINIT_TJINIT_DECOMPRESS).map(Self)
    }

    /// Reads a header. Pixels, scans and the memory for coefficients are limited once more inside the library.
    pub fn open<'a>(&'a mut self, jpeg: &'a [u8], limits: &super::Limits) -> Result<Opened<'a>, Fault> {
        let clamp = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
        let handle = &mut self.0;
        for (param, value) in [
            (tj::TJPARAM_TJPARAM_MAXPIXELS, clamp(limits.max_pixels)),
            (tj::TJPARAM_TJPARAM_SCANLIMIT, clamp(limits.max_scans.into())),
            (tj::TJPARAM_TJPARAM_MAXMEMORY, clamp((limits.max_buffer_bytes >> 20) + 16)),
        ] {
            handle.set(param, value).map_err(Fault::Failed)?;
        }
        // SAFETY: pointer and length are of one live slice.
        let rc = unsafe { tj::tj3DecompressHeader(handle.0.as_ptr(), jpeg.as_ptr(), jpeg.len() as tj::size_t) };
        match handle.judge(rc) {
            // The decoding itself reads the header again and repeats the warning.
            Ok(()) | Err(Fault::Warned(_)) => {}
            Err(fault) => return Err(fault),
        }
        let size = |param| u32::try_from(handle.get(param)).unwrap_or(0);
        let (width, height) = (size(tj::TJPARAM_TJPARAM_JPEGWIDTH), size(tj::TJPARAM_TJPARAM_JPEGHEIGHT));
        if width == 0 || height == 0 {
            return Err(Fault::Failed("no size".to_owned()));
        }
        Ok(Opened { handle, jpeg, width, height })
    }
}

impl Opened<'_> {
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    pub fn colour(&self) -> Colour {
        let known = self.sampling().is_some();
        match self.handle.get(tj::TJPARAM_TJPARAM_COLORSPACE).cast_unsigned() {
            tj::TJCS_TJCS_YCbCr | tj::TJCS_TJCS_GRAY if known => Colour::Planes,
            tj::TJCS_TJCS_CMYK | tj::TJCS_TJCS_YCCK => Colour::Cmyk,
            _ => Colour::Rgb,
        }
    }

    /// How many pixels a colour sample covers across and down; (0, 0) for grey, `None` for unusual ones.
    fn sampling(&self) -> Option<(u32, u32)> {
        match self.handle.get(tj::TJPARAM_TJPARAM_SUBSAMP) {
            tj::TJSAMP_TJSAMP_GRAY => Some((0, 0)),
            tj::TJSAMP_TJSAMP_444 => Some((1, 1)),
            tj::TJSAMP_TJSAMP_422 => Some((2, 1)),
            tj::TJSAMP_TJSAMP_420 => Some((2, 2)),
            tj::TJSAMP_TJSAMP_440 => Some((1, 2)),
            tj::TJSAMP_TJSAMP_411 => Some((4, 1)),
            tj::TJSAMP_TJSAMP_441 => Some((1, 4)),
            _ => None,
        }
    }

    /// Sets the reduction while decoding, and gives the reduced size. Only powers of two have fast code.
    fn reduce(&mut self, reduction: u32) -> Result<(u32, u32), Fault> {
        let factor = tj::tjscalingfactor { num: 1, denom: reduction.cast_signed() };
        // SAFETY: the handle is live.
        let rc = unsafe { tj::tj3SetScalingFactor(self.handle.0.as_ptr(), factor) };
        self.handle.judge(rc)?;
        Ok((self.width.div_ceil(reduction), self.height.div_ceil(reduction)))
    }

    /// Decodes to planes, reduced by 1, 2, 4 or 8. Only for [`Colour::Planes`].
    pub fn planes(mut self, reduction: u32) -> Result<Yuv, Fault> {
        let (width, height) = self.reduce(reduction)?;
        let sampling = self.sampling().ok_or_else(|| Fault::Failed("unusual sampling".to_owned()))?;
        let exact = |edge: u32, step: u32| f64::from(edge) / f64::from(reduction * step);
        let subsampling = self.handle.get(tj::TJPARAM_TJPARAM_SUBSAMP);
        let plane = |component, (across, down): (u32, u32)| {
            let mut plane = empty_plane(component, (width, height), subsampling);
            plane.extent = (exact(self.width, across), exact(self.height, down));
            plane
        };
        let mut luma = plane(0, (1, 1));
        let mut chroma = (sampling != (0, 0)).then(|| [plane(1, sampling), plane(2, sampling)]);
        let [blue, red] =
            chroma.as_mut().map_or([ptr::null_mut(); 2], |[blue, red]| [blue.data.as_mut_ptr(), red.data.as_mut_ptr()]);
        let mut pointers = [luma.data.as_mut_ptr(), blue, red];
        // SAFETY: the planes have the sizes that the library itself gives for the reduced size and the sampling, both of
        // which it told for this very JPEG; strides null means rows of just that width.
        let rc = unsafe {
            tj::tj3DecompressToYUVPlanes8(
                self.handle.0.as_ptr(),
                self.jpeg.as_ptr(),
                self.jpeg.len() as tj::size_t,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.handle.judge(rc)?;
        Ok(Yuv { luma, chroma })
    }

    /// Decodes to RGB, or to raw CMYK for [`Colour::Cmyk`], reduced by 1, 2, 4 or 8.
    pub fn pixels(mut self, reduction: u32) -> Result<Raster, Fault> {
        let (width, height) = self.reduce(reduction)?;
        let (format, channels) = match self.colour() {
            Colour::Cmyk => (tj::TJPF_TJPF_CMYK, 4),
            _ => (tj::TJPF_TJPF_RGB, 3),
        };
        let mut data = vec![0; width as usize * height as usize * channels as usize];
        // SAFETY: the buffer has the reduced size in the given format; pitch 0 means rows without padding.
        let rc = unsafe {
            tj::tj3Decompress8(
                self.handle.0.as_ptr(),
                self.jpeg.as_ptr(),
                self.jpeg.len() as tj::size_t,
                data.as_mut_ptr(),
                0,
                format,
            )
        };
        self.handle.judge(rc)?;
        let mut raster = Raster::new(data, width, height, channels);
        let exact = |edge: u32| f64::from(edge) / f64::from(reduction);
        raster.extent = (exact(self.width), exact(self.height));
        Ok(raster)
    }
}

/// Encodes JPEGs, and converts between RGB and planes of half resolution.
pub struct Compressor {
    encoder: Handle,
    decoder: Handle,
}

/// The encoded bytes as the library allocated them; freed on drop.
struct Encoded {
    bytes: *mut u8,
    length: tj::size_t,
}

impl Drop for Encoded {
    fn drop(&mut self) {
        // SAFETY: null or allocated by the library, and not used again.
        unsafe { tj::tj3Free(self.bytes.cast()) }
    }
}

impl Compressor {
    pub fn new() -> Result<Self, String> {
        let (encoder, decoder) = (Handle::new(tj::TJINIT_TJINIT_COMPRESS)?, Handle::new(tj::TJINIT_TJINIT_DECOMPRESS)?);
        Ok(Self { encoder, decoder })
    }

    /// A baseline JPEG, 4:2:0 or grey, without any metadata.
    pub fn jpeg(&mut self, picture: &Yuv, quality: u8) -> Result<Vec<u8>, String> {
        let luma = even(picture);
        let (planes, sampling) = pointers(picture, &luma);
        self.encoder.set(tj::TJPARAM_TJPARAM_SUBSAMP, sampling)?;
        self.encoder.set(tj::TJPARAM_TJPARAM_QUALITY, i32::from(quality.clamp(1, 100)))?;
        let mut out = Encoded { bytes: ptr::null_mut(), length: 0 };
        // SAFETY: the planes have the sizes that the library gives for 4:2:0 or grey (asserted in `pointers`), rows of
        // just that width; the library allocates the output.
        let rc = unsafe {
            tj::tj3CompressFromYUVPlanes8(
                self.encoder.0.as_ptr(),
                planes.as_ptr(),
                picture.luma.width.cast_signed(),
                ptr::null(),
                picture.luma.height.cast_signed(),
                &raw mut out.bytes,
                &raw mut out.length,
            )
        };
        if rc != 0 || out.bytes.is_null() {
            return Err(self.encoder.message());
        }
        let length = usize::try_from(out.length).map_err(|error| error.to_string())?;
        // SAFETY: the library says that so many bytes are there.
        Ok(unsafe { slice::from_raw_parts(out.bytes, length) }.to_vec())
    }

    /// RGB of a picture in planes of half resolution, or grey.
    pub fn rgb(&mut self, picture: &Yuv) -> Result<Raster, String> {
        let luma = even(picture);
        let (planes, sampling) = pointers(picture, &luma);
        let (width, height) = (picture.luma.width, picture.luma.height);
        self.decoder.set(tj::TJPARAM_TJPARAM_SUBSAMP, sampling)?;
        let mut data = vec![0; width as usize * height as usize * 3];
        // SAFETY: as in `jpeg`; the output has three bytes per pixel, pitch 0 means rows without padding.
        let rc = unsafe {
            tj::tj3DecodeYUVPlanes8(
                self.decoder.0.as_ptr(),
                planes.as_ptr(),
                ptr::null(),
                data.as_mut_ptr(),
                width.cast_signed(),
                0,
                height.cast_signed(),
                tj::TJPF_TJPF_RGB,
            )
        };
        if rc == 0 { Ok(Raster::new(data, width, height, 3)) } else { Err(self.decoder.message()) }
    }

    /// Planes of half resolution of an RGB picture.
    pub fn planes(&mut self, rgb: &Raster) -> Result<Yuv, String> {
        assert_eq!((rgb.channels, rgb.data.len()), (3, rgb.width as usize * rgb.height as usize * 3));
        let plane = |component| empty_plane(component, (rgb.width, rgb.height), tj::TJSAMP_TJSAMP_420);
        let (mut luma, mut blue, mut red) = (plane(0), plane(1), plane(2));
        self.encoder.set(tj::TJPARAM_TJPARAM_SUBSAMP, tj::TJSAMP_TJSAMP_420)?;
        let mut pointers = [luma.data.as_mut_ptr(), blue.data.as_mut_ptr(), red.data.as_mut_ptr()];
        // SAFETY: the input has three bytes per pixel (asserted), the planes the sizes that the library gives for 4:2:0.
        let rc = unsafe {
            tj::tj3EncodeYUVPlanes8(
                self.encoder.0.as_ptr(),
                rgb.data.as_ptr(),
                rgb.width.cast_signed(),
                0,
                rgb.height.cast_signed(),
                tj::TJPF_TJPF_RGB,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        if rc != 0 {
            return Err(self.encoder.message());
        }
        let extent = (f64::from(rgb.width) / 2.0, f64::from(rgb.height) / 2.0);
        (blue.extent, red.extent) = (extent, extent);
        Ok(Yuv { luma: luma.cropped(rgb.width, rgb.height), chroma: Some([blue, red]) })
    }
}

/// A plane of the size that the library works with. Beware: with halved colours it rounds the size of the brightness plane up
/// to even too, and reads and writes that last row and column.
fn empty_plane(component: c_int, size: (u32, u32), subsampling: c_int) -> Raster {
    let (width, height) = plane_size(component, size, subsampling);
    Raster::new(vec![0; width as usize * height as usize], width, height, 1)
}

/// The library's size of a plane; (0, 0) for a component that the sampling doesn't have.
fn plane_size(component: c_int, (width, height): (u32, u32), subsampling: c_int) -> (u32, u32) {
    // SAFETY: plain numbers, checked by the library.
    let (width, height) = unsafe {
        (
            tj::tj3YUVPlaneWidth(component, width.cast_signed(), subsampling),
            tj::tj3YUVPlaneHeight(component, height.cast_signed(), subsampling),
        )
    };
    (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
}

/// The brightness plane as the library wants it beside halved colours: of even size.
fn even(picture: &Yuv) -> Cow<'_, Raster> {
    let (right, below) = (picture.luma.width % 2, picture.luma.height % 2);
    if picture.chroma.is_none() || right + below == 0 {
        return Cow::Borrowed(&picture.luma);
    }
    Cow::Owned(picture.luma.padded([0, right, 0, below]))
}

/// A picture's planes for the library, checked to be of its sizes for grey or 4:2:0, with its name for either.
fn pointers(picture: &Yuv, luma: &Raster) -> ([*const u8; 3], c_int) {
    let size = (picture.luma.width, picture.luma.height);
    let subsampling = if picture.chroma.is_some() { tj::TJSAMP_TJSAMP_420 } else { tj::TJSAMP_TJSAMP_GRAY };
    let pointer = |component, plane: &Raster| {
        let (width, height) = plane_size(component, size, subsampling);
        assert_eq!(plane.data.len(), width as usize * height as usize, "a plane that does not fit the picture");
        plane.data.as_ptr()
    };
    let [blue, red] =
        picture.chroma.as_ref().map_or([ptr::null(); 2], |[blue, red]| [pointer(1, blue), pointer(2, red)]);
    ([pointer(0, luma), blue, red], subsampling)
}
