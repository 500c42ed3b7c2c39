//go:build linux

package main

import (
	"mime"
	"strings"
)

// types are the media types that do not depend on the machine, by the ending of a name.
// Package mime knows more, from the files of the system.
var types = map[string]string{
	"7z": "application/x-7z-compressed", "aac": "audio/aac", "apng": "image/apng", "atom": "application/atom+xml", "avif": "image/avif",
	"avi": "video/x-msvideo", "bin": "application/octet-stream", "bmp": "image/bmp", "br": "application/octet-stream",
	"bz2": "application/x-bzip2", "css": "text/css", "csv": "text/csv", "deb": "application/vnd.debian.binary-package",
	"doc": "application/msword", "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"eot": "application/vnd.ms-fontobject", "epub": "application/epub+zip", "flac": "audio/flac", "gif": "image/gif",
	"gz": "application/gzip", "htm": "text/html", "html": "text/html", "ico": "image/x-icon", "ics": "text/calendar",
	"iso": "application/octet-stream", "jar": "application/java-archive", "jpeg": "image/jpeg", "jpg": "image/jpeg",
	"js": "text/javascript", "json": "application/json", "jsonld": "application/ld+json", "jxl": "image/jxl", "log": "text/plain",
	"m3u8": "application/vnd.apple.mpegurl", "m4a": "audio/mp4", "m4s": "video/iso.segment", "m4v": "video/mp4", "map": "application/json",
	"md": "text/markdown", "mid": "audio/midi", "mjs": "text/javascript", "mkv": "video/matroska", "mov": "video/quicktime",
	"mp3": "audio/mpeg", "mp4": "video/mp4", "mpd": "application/dash+xml", "mpeg": "video/mpeg", "mpg": "video/mpeg",
	"odp": "application/vnd.oasis.opendocument.presentation", "ods": "application/vnd.oasis.opendocument.spreadsheet",
	"odt": "application/vnd.oasis.opendocument.text", "oga": "audio/ogg", "ogg": "audio/ogg", "ogv": "video/ogg", "opus": "audio/ogg",
	"otf": "font/otf", "pdf": "application/pdf", "png": "image/png", "ppt": "application/vnd.ms-powerpoint",
	"pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation", "rar": "application/vnd.rar",
	"rss": "application/rss+xml", "rtf": "application/rtf", "sh": "application/x-sh", "svg": "image/svg+xml", "svgz": "image/svg+xml",
	"tar": "application/x-tar", "tgz": "application/gzip", "tif": "image/tiff", "tiff": "image/tiff", "toml": "application/toml",
	"ts": "video/mp2t", "ttf": "font/ttf", "txt": "text/plain", "vtt": "text/vtt", "wasm": "application/wasm", "wav": "audio/wav",
	"weba": "audio/webm", "webm": "video/webm", "webmanifest": "application/manifest+json", "webp": "image/webp", "woff": "font/woff",
	"woff2": "font/woff2", "xhtml": "application/xhtml+xml", "xls": "application/vnd.ms-excel",
	"xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xml": "application/xml", "xz": "application/x-xz",
	"yaml": "application/yaml", "yml": "application/yaml", "zip": "application/zip", "zst": "application/zstd",
}

// typeOf is the media type of a name's ending, which has its dot. Text is taken for UTF-8.
func typeOf(ending string) string {
	ending = strings.ToLower(ending)
	t, ok := types[strings.TrimPrefix(ending, ".")]
	if !ok {
		t = mime.TypeByExtension(ending)
	}
	switch {
	case t == "", len(t) > typeMost:
		return "application/octet-stream"
	case strings.HasPrefix(t, "text/") && !strings.Contains(t, "charset="):
		return t + "; charset=utf-8"
	}
	return t
}

// typeMost is the longest type that heads have room for; the longest that is registered
// has some 80 bytes.
const typeMost = 128
