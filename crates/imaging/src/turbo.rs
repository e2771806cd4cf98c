//! Safe wrapper of the `TurboJPEG` 3 API of libjpeg-turbo; the only module that calls C directly. A JPEG that decodes
//! with a warning about its data is an error, see [`JpegError`].
#![expect(unsafe_code, reason = "calls libjpeg-turbo, a C library")]

use super::raster::{Raster, Yuv};
use std::borrow::Cow;
use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::{ffi::c_int, slice};
use turbojpeg_sys as tj;

/// The reason why a JPEG could not be decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum JpegError {
    /// libjpeg-turbo reported a warning. It reports only the first one, which may hide others.
    Warning(String),
    /// libjpeg-turbo failed.
    Failure(String),
}

/// The form in which a JPEG is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourModel {
    /// Luma alone, or with two chroma planes of a supported subsampling.
    Planes,
    /// Any other colour space or subsampling; decoded to RGB.
    Rgb,
    /// CMYK or YCCK; decoded to CMYK.
    Cmyk,
}

/// A `TurboJPEG` handle; destroyed on drop.
struct Handle(NonNull<std::ffi::c_void>);

// SAFETY: a handle is not bound to the thread that created it, and every call that changes it takes `&mut self`.
unsafe impl Send for Handle {}

impl Handle {
    fn new(kind: tj::TJINIT) -> Result<Self, String> {
        // SAFETY: takes an integer; the result is checked for null.
        let raw = unsafe { tj::tj3Init(kind.cast_signed()) };
        NonNull::new(raw).map(Self).ok_or_else(|| "libjpeg-turbo could not be initialised".to_owned())
    }

    fn set(&mut self, param: tj::TJPARAM, value: i32) -> Result<(), String> {
        // SAFETY: the handle is valid until drop.
        let rc = unsafe { tj::tj3Set(self.0.as_ptr(), param.cast_signed(), value) };
        if rc == 0 { Ok(()) } else { Err(self.last_error()) }
    }

    fn get(&self, param: tj::TJPARAM) -> i32 {
        // SAFETY: the handle is valid until drop.
        unsafe { tj::tj3Get(self.0.as_ptr(), param.cast_signed()) }
    }

    fn last_error(&self) -> String {
        // SAFETY: the handle is valid; the string belongs to it and is copied before the next call.
        unsafe { CStr::from_ptr(tj::tj3GetErrorStr(self.0.as_ptr())) }.to_string_lossy().into_owned()
    }

    /// Converts the result code of a call.
    fn check(&self, rc: c_int) -> Result<(), JpegError> {
        if rc == 0 {
            return Ok(());
        }
        let last_error = self.last_error();
        // SAFETY: the handle is valid until drop.
        let code = unsafe { tj::tj3GetErrorCode(self.0.as_ptr()) };
        if code != tj::TJERR_TJERR_WARNING.cast_signed() {
            return Err(JpegError::Failure(last_error));
        }
        // Some cameras write padding between the last scan and EOI. libjpeg-turbo reports the first warning, and this
        // is the last possible position, so all data before it is intact.
        if last_error.contains("extraneous bytes before marker 0xd9") {
            Ok(())
        } else {
            Err(JpegError::Warning(last_error))
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and not used again.
        unsafe { tj::tj3Destroy(self.0.as_ptr()) }
    }
}

/// A JPEG decoder.
pub struct Decompressor(Handle);

/// A JPEG whose header has been read.
pub struct JpegReader<'a> {
    handle: &'a mut Handle,
    jpeg: &'a [u8],
    width: u32,
    height: u32,
}

impl Decompressor {
    pub fn new() -> Result<Self, String> {
        Handle::new(tj::TJINIT_TJINIT_DECOMPRESS).map(Self)
    }

    /// Reads the header. The library enforces the limits on pixels, scans and coefficient memory as well.
    pub fn open<'a>(&'a mut self, jpeg: &'a [u8], limits: &super::Limits) -> Result<JpegReader<'a>, JpegError> {
        let clamp = |value: u64| i32::try_from(value).unwrap_or(i32::MAX);
        let handle = &mut self.0;
        for (param, value) in [
            (tj::TJPARAM_TJPARAM_MAXPIXELS, clamp(limits.max_pixels)),
            (tj::TJPARAM_TJPARAM_SCANLIMIT, clamp(limits.max_scans.into())),
            (tj::TJPARAM_TJPARAM_MAXMEMORY, clamp((limits.max_buffer_bytes >> 20) + 16)),
        ] {
            handle.set(param, value).map_err(JpegError::Failure)?;
        }
        // SAFETY: pointer and length belong to one live slice.
        let rc = unsafe { tj::tj3DecompressHeader(handle.0.as_ptr(), jpeg.as_ptr(), jpeg.len() as tj::size_t) };
        match handle.check(rc) {
            // Decoding reads the header again and reports the warning again.
            Ok(()) | Err(JpegError::Warning(_)) => {}
            Err(error) => return Err(error),
        }
        let size = |param| u32::try_from(handle.get(param)).unwrap_or(0);
        let (width, height) = (size(tj::TJPARAM_TJPARAM_JPEGWIDTH), size(tj::TJPARAM_TJPARAM_JPEGHEIGHT));
        if width == 0 || height == 0 {
            return Err(JpegError::Failure("the header has no image size".to_owned()));
        }
        Ok(JpegReader { handle, jpeg, width, height })
    }
}

impl JpegReader<'_> {
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    pub fn colour_model(&self) -> ColourModel {
        let has_planes = self.sampling().is_some();
        match self.handle.get(tj::TJPARAM_TJPARAM_COLORSPACE).cast_unsigned() {
            tj::TJCS_TJCS_YCbCr | tj::TJCS_TJCS_GRAY if has_planes => ColourModel::Planes,
            tj::TJCS_TJCS_CMYK | tj::TJCS_TJCS_YCCK => ColourModel::Cmyk,
            _ => ColourModel::Rgb,
        }
    }

    /// Returns the horizontal and vertical subsampling of the chroma planes, (0, 0) for grey, and `None` if it is not
    /// supported.
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

    /// Sets the reduction factor and returns the reduced size. Only powers of two have SIMD code.
    fn set_reduction(&mut self, reduction_factor: u32) -> Result<(u32, u32), JpegError> {
        let factor = tj::tjscalingfactor { num: 1, denom: reduction_factor.cast_signed() };
        // SAFETY: the handle is valid until drop.
        let rc = unsafe { tj::tj3SetScalingFactor(self.handle.0.as_ptr(), factor) };
        self.handle.check(rc)?;
        Ok((self.width.div_ceil(reduction_factor), self.height.div_ceil(reduction_factor)))
    }

    /// Decodes to planes, reduced by 1, 2, 4 or 8. Only for [`ColourModel::Planes`].
    pub fn decode_planes(mut self, reduction_factor: u32) -> Result<Yuv, JpegError> {
        let (width, height) = self.set_reduction(reduction_factor)?;
        let sampling =
            self.sampling().ok_or_else(|| JpegError::Failure("the chroma subsampling is not supported".to_owned()))?;
        let exact_edge = |edge: u32, step: u32| f64::from(edge) / f64::from(reduction_factor * step);
        let subsampling = self.handle.get(tj::TJPARAM_TJPARAM_SUBSAMP);
        let plane = |component, (step_x, step_y): (u32, u32)| {
            let mut plane = empty_plane(component, (width, height), subsampling);
            plane.extent = (exact_edge(self.width, step_x), exact_edge(self.height, step_y));
            plane
        };
        let mut luma = plane(0, (1, 1));
        let mut chroma = (sampling != (0, 0)).then(|| [plane(1, sampling), plane(2, sampling)]);
        let [cb, cr] =
            chroma.as_mut().map_or([ptr::null_mut(); 2], |[cb, cr]| [cb.data.as_mut_ptr(), cr.data.as_mut_ptr()]);
        let mut pointers = [luma.data.as_mut_ptr(), cb, cr];
        // SAFETY: the planes have the sizes that the library returns for the reduced size and the subsampling, both
        // of which it reported for this JPEG. Null strides mean rows without padding.
        let rc = unsafe {
            tj::tj3DecompressToYUVPlanes8(
                self.handle.0.as_ptr(),
                self.jpeg.as_ptr(),
                self.jpeg.len() as tj::size_t,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.handle.check(rc)?;
        Ok(Yuv { luma, chroma })
    }

    /// Decodes to RGB, or to raw CMYK for [`ColourModel::Cmyk`], reduced by 1, 2, 4 or 8.
    pub fn decode_pixels(mut self, reduction_factor: u32) -> Result<Raster, JpegError> {
        let (width, height) = self.set_reduction(reduction_factor)?;
        let (format, channels) = match self.colour_model() {
            ColourModel::Cmyk => (tj::TJPF_TJPF_CMYK, 4),
            _ => (tj::TJPF_TJPF_RGB, 3),
        };
        let mut data = vec![0; width as usize * height as usize * channels as usize];
        // SAFETY: the buffer has the reduced size in the given pixel format; pitch 0 means rows without padding.
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
        self.handle.check(rc)?;
        let mut raster = Raster::new(data, width, height, channels);
        let exact_edge = |edge: u32| f64::from(edge) / f64::from(reduction_factor);
        raster.extent = (exact_edge(self.width), exact_edge(self.height));
        Ok(raster)
    }
}

/// A JPEG encoder, which also converts between RGB and 4:2:0 planes.
pub struct Compressor {
    encoder: Handle,
    decoder: Handle,
}

/// An output buffer allocated by the library; freed on drop.
struct OutputBuffer {
    bytes: *mut u8,
    length: tj::size_t,
}

impl Drop for OutputBuffer {
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

    /// Encodes a baseline JPEG, 4:2:0 or grey, without metadata. `quality` is clamped to 1 to 100.
    pub fn encode_jpeg(&mut self, image: &Yuv, quality: u8) -> Result<Vec<u8>, String> {
        let luma = pad_luma_to_even(image);
        let (planes, sampling) = plane_pointers(image, &luma);
        self.encoder.set(tj::TJPARAM_TJPARAM_SUBSAMP, sampling)?;
        self.encoder.set(tj::TJPARAM_TJPARAM_QUALITY, i32::from(quality.clamp(1, 100)))?;
        let mut out = OutputBuffer { bytes: ptr::null_mut(), length: 0 };
        // SAFETY: the planes have the sizes that the library returns for 4:2:0 or grey (asserted in
        // `plane_pointers`), in rows without padding. The library allocates the output.
        let rc = unsafe {
            tj::tj3CompressFromYUVPlanes8(
                self.encoder.0.as_ptr(),
                planes.as_ptr(),
                image.luma.width.cast_signed(),
                ptr::null(),
                image.luma.height.cast_signed(),
                &raw mut out.bytes,
                &raw mut out.length,
            )
        };
        if rc != 0 || out.bytes.is_null() {
            return Err(self.encoder.last_error());
        }
        let length = usize::try_from(out.length).map_err(|error| error.to_string())?;
        // SAFETY: the library reports `length` initialised bytes at `out.bytes`.
        Ok(unsafe { slice::from_raw_parts(out.bytes, length) }.to_vec())
    }

    /// Converts 4:2:0 planes or luma alone to RGB.
    pub fn convert_to_rgb(&mut self, image: &Yuv) -> Result<Raster, String> {
        let luma = pad_luma_to_even(image);
        let (planes, sampling) = plane_pointers(image, &luma);
        let (width, height) = (image.luma.width, image.luma.height);
        self.decoder.set(tj::TJPARAM_TJPARAM_SUBSAMP, sampling)?;
        let mut data = vec![0; width as usize * height as usize * 3];
        // SAFETY: the planes as in `encode_jpeg`; the output has three bytes per pixel, and pitch 0 means rows
        // without padding.
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
        if rc == 0 { Ok(Raster::new(data, width, height, 3)) } else { Err(self.decoder.last_error()) }
    }

    /// Converts RGB to 4:2:0 planes.
    pub fn convert_to_planes(&mut self, rgb: &Raster) -> Result<Yuv, String> {
        assert_eq!((rgb.channels, rgb.data.len()), (3, rgb.width as usize * rgb.height as usize * 3));
        let plane = |component| empty_plane(component, (rgb.width, rgb.height), tj::TJSAMP_TJSAMP_420);
        let (mut luma, mut cb, mut cr) = (plane(0), plane(1), plane(2));
        self.encoder.set(tj::TJPARAM_TJPARAM_SUBSAMP, tj::TJSAMP_TJSAMP_420)?;
        let mut pointers = [luma.data.as_mut_ptr(), cb.data.as_mut_ptr(), cr.data.as_mut_ptr()];
        // SAFETY: the input has three bytes per pixel (asserted); the planes have the sizes that the library returns
        // for 4:2:0.
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
            return Err(self.encoder.last_error());
        }
        let extent = (f64::from(rgb.width) / 2.0, f64::from(rgb.height) / 2.0);
        (cb.extent, cr.extent) = (extent, extent);
        Ok(Yuv { luma: luma.cropped(rgb.width, rgb.height), chroma: Some([cb, cr]) })
    }
}

/// Allocates a plane of the size that the library uses. With subsampled chroma, the library also rounds the luma
/// plane up to an even size, and reads and writes that last row and column.
fn empty_plane(component: c_int, size: (u32, u32), subsampling: c_int) -> Raster {
    let (width, height) = plane_size(component, size, subsampling);
    Raster::new(vec![0; width as usize * height as usize], width, height, 1)
}

/// Returns the size of a plane; (0, 0) for a component that the subsampling does not have.
fn plane_size(component: c_int, (width, height): (u32, u32), subsampling: c_int) -> (u32, u32) {
    // SAFETY: takes integers, which the library validates.
    let (width, height) = unsafe {
        (
            tj::tj3YUVPlaneWidth(component, width.cast_signed(), subsampling),
            tj::tj3YUVPlaneHeight(component, height.cast_signed(), subsampling),
        )
    };
    (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
}

/// Returns the luma plane as the library reads it next to subsampled chroma: padded to an even size.
fn pad_luma_to_even(image: &Yuv) -> Cow<'_, Raster> {
    let (pad_right, pad_below) = (image.luma.width % 2, image.luma.height % 2);
    if image.chroma.is_none() || pad_right + pad_below == 0 {
        return Cow::Borrowed(&image.luma);
    }
    Cow::Owned(image.luma.padded([0, pad_right, 0, pad_below]))
}

/// Returns the plane pointers and the `TJSAMP` value of an image. Asserts that the planes have the sizes of grey or
/// 4:2:0.
fn plane_pointers(image: &Yuv, luma: &Raster) -> ([*const u8; 3], c_int) {
    let size = (image.luma.width, image.luma.height);
    let subsampling = if image.chroma.is_some() { tj::TJSAMP_TJSAMP_420 } else { tj::TJSAMP_TJSAMP_GRAY };
    let pointer = |component, plane: &Raster| {
        let (width, height) = plane_size(component, size, subsampling);
        assert_eq!(plane.data.len(), width as usize * height as usize, "plane size does not match the image");
        plane.data.as_ptr()
    };
    let [cb, cr] = image.chroma.as_ref().map_or([ptr::null(); 2], |[cb, cr]| [pointer(1, cb), pointer(2, cr)]);
    ([pointer(0, luma), cb, cr], subsampling)
}
