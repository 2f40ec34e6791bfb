package dsar

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// The most bytes of the two files that are read as a whole.
const (
	maxNote     = 64 << 10
	maxManifest = 1 << 20
)

// Verify says whether a package is, to the byte, what was signed, and gives the note's text. open verifies a signed note and gives
// its text: a title, and lines "name: value".
func Verify(r io.ReaderAt, size int64, open func(signed []byte) (string, error)) (text string, files []File, err error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return "", nil, fmt.Errorf("it is no whole ZIP archive: %w", err)
	}
	last := len(z.File) - 1
	if last < 1 || z.File[last].Name != noteName || z.File[last-1].Name != manifestName {
		return "", nil, errors.New("it is no package: it doesn't end with " + manifestName + " and " + noteName)
	}
	signed, err := whole(z.File[last], maxNote)
	if err != nil {
		return "", nil, err
	}
	if text, err = open(signed); err != nil {
		return "", nil, err
	}
	says := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		says[name] = value
	}
	if err := checkBytes(r, size, z, says); err != nil {
		return "", nil, err
	}
	listed, err := whole(z.File[last-1], maxManifest)
	if err != nil {
		return "", nil, err
	}
	var m manifest
	if err := json.Unmarshal(listed, &m); err != nil || len(m.Files) != last-1 {
		return "", nil, errors.New("the manifest doesn't list just the files that are there")
	}
	if sum := newMeter(io.Discard); says["manifest-sha256"] != sum.of(listed) {
		return "", nil, errors.New("the manifest is not the one that was signed")
	}
	for i, f := range m.Files {
		if err := f.check(z.File[i]); err != nil {
			return "", nil, err
		}
	}
	return text, m.Files, nil
}

func (m *meter) of(b []byte) string {
	_, _ = m.Write(b)
	return m.hex()
}

// checkBytes holds the archive against what was signed: all that stands in front of the note, compressed as it is; and behind
// it only what there must be.
func checkBytes(r io.ReaderAt, size int64, z *zip.Reader, says map[string]string) error {
	at, err := z.File[len(z.File)-1].DataOffset()
	if err != nil {
		return err
	}
	front := newMeter(io.Discard)
	if _, err := io.Copy(front, io.NewSectionReader(r, 0, at)); err != nil {
		return err
	}
	if says["archive-bytes"] != strconv.FormatInt(at, 10) || says["archive-sha256"] != front.hex() {
		return errors.New("the archive was changed after it was signed")
	}
	same := &comparer{r: r}
	if err := rewrite(z, same); err != nil {
		return err
	}
	if same.n != size {
		return errors.New("there is more in the archive than was signed")
	}
	return nil
}

// rewrite writes the archive's parts anew, as archive does. What the central directory alone says is not taken from there.
func rewrite(z *zip.Reader, to io.Writer) error {
	out := zip.NewWriter(to)
	for _, f := range z.File {
		h := f.FileHeader
		h.CreatorVersion, h.ReaderVersion, h.ExternalAttrs, h.Comment = version20, version20, 0, ""
		h.Extra = h.Extra[:min(len(h.Extra), timestampLen)] // zip writes those of large files itself
		raw, err := f.OpenRaw()
		if err != nil {
			return err
		}
		w, err := out.CreateRaw(&h)
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, raw); err != nil {
			return err
		}
		if max(h.CompressedSize64, h.UncompressedSize64) >= math.MaxUint32 {
			h.ReaderVersion = version45 // which the directory says, and the file's own header, written by now, does not
		}
	}
	return out.Close()
}

const (
	version20    = 20 // of the ZIP format
	version45    = 45 // likewise, for files of 4 GiB and more
	timestampLen = 9  // of the extra field with the time
)

// comparer is a writer to whom only what is there already can be written.
type comparer struct {
	r io.ReaderAt
	n int64
}

func (c *comparer) Write(p []byte) (int, error) {
	there := make([]byte, len(p))
	if n, _ := c.r.ReadAt(there, c.n); n < len(p) || !bytes.Equal(there, p) {
		return 0, errors.New("the archive was changed after it was signed")
	}
	c.n += int64(len(p))
	return len(p), nil
}

// check holds a file against the manifest.
func (f File) check(z *zip.File) error {
	in, err := z.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	m := newMeter(io.Discard)
	// No more than it says: what compresses well could be without end.
	if _, err := io.Copy(m, io.LimitReader(in, f.Bytes+1)); err != nil {
		return fmt.Errorf("a file of the archive: %w", err)
	}
	if z.Name != f.Name || m.n != f.Bytes || m.hex() != f.SHA256 {
		return fmt.Errorf("%q is not the file that the manifest lists", z.Name)
	}
	return nil
}

// whole reads a small file.
func whole(f *zip.File, most int64) ([]byte, error) {
	in, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, most))
	if err == nil && int64(len(b)) == most {
		err = fmt.Errorf("%s is longer than any that was written", f.Name)
	}
	return b, err
}
