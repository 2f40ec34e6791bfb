package dsar

import (
	"archive/zip"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"
)

const (
	manifestName = "manifest.json"
	noteName     = "manifest.note"
)

// File is a file of a package, as its manifest has it.
type File struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// manifest is manifest.json.
type manifest struct {
	Format string `json:"format"`
	Head
	Files []File `json:"files"`
}

// meter counts and hashes what passes.
type meter struct {
	w   io.Writer
	n   int64
	sum hash.Hash
}

func newMeter(w io.Writer) *meter { return &meter{w: w, sum: sha256.New()} }

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.n += int64(n)
	m.sum.Write(p[:n])
	return n, err
}

func (m *meter) hex() string { return hex.EncodeToString(m.sum.Sum(nil)) }

type archive struct {
	out   *meter
	zip   *zip.Writer
	at    time.Time
	files []File
}

func newArchive(out io.Writer, at time.Time) *archive {
	m := newMeter(out)
	return &archive{out: m, zip: zip.NewWriter(m), at: at}
}

// file writes one file. An error of the writer that write is given may be ignored: it comes back here.
func (a *archive) file(name string, write func(*bufio.Writer) error) error {
	to, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.at})
	if err != nil {
		return err
	}
	m := newMeter(to)
	b := bufio.NewWriterSize(m, 32<<10)
	if err := write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	a.files = append(a.files, File{name, m.n, m.hex()})
	return nil
}

// finish writes the manifest, and the note that stands for it and for every byte before the note itself.
func (a *archive) finish(h Head, sign func(text string) ([]byte, error)) error {
	listed, err := json.MarshalIndent(manifest{"privault-package/1", h, a.files}, "", " ")
	if err != nil {
		return err
	}
	err = a.file(manifestName, func(out *bufio.Writer) error {
		_, _ = out.Write(append(listed, '\n'))
		return nil
	})
	if err != nil {
		return err
	}
	// Stored as it is, so that there is one way to write it.
	to, err := a.zip.CreateHeader(&zip.FileHeader{Name: noteName, Method: zip.Store, Modified: a.at})
	if err != nil {
		return err
	}
	if err := a.zip.Flush(); err != nil {
		return err
	}
	var text strings.Builder
	for _, line := range [][2]string{
		{"request", h.Request},
		{"deployment", h.Deployment},
		{"tenant", h.Tenant},
		{"kind", h.Kind},
		{"regime", h.Regime},
		{"created-at", h.Created.Format(time.RFC3339)},
		{"manifest-sha256", a.files[len(a.files)-1].SHA256},
		{"archive-bytes", strconv.FormatInt(a.out.n, 10)}, // in front of this note
		{"archive-sha256", a.out.hex()},                   // of them
	} {
		text.WriteString(line[0] + ": " + line[1] + "\n")
	}
	signed, err := sign(text.String())
	if err != nil {
		return err
	}
	if _, err := to.Write(signed); err != nil {
		return err
	}
	return a.zip.Close()
}
