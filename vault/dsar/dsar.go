// Package dsar makes what a person gets who asked for their data (GDPR 15 and 20, Cal. Civ. Code 1798.110, 45 CFR 164.524): a
// ZIP archive, written as one stream, and the check of such an archive with a public key alone. It is pure: what goes in comes
// from the caller record by record, what comes out goes to the caller's writer, and signing and verifying are the caller's too.
//
// The files of a package, in this order:
//
//	data.json          every record, with the schema of its fields
//	csv/<name>.csv     the same records, a table for each collection
//	report.html, .pdf  the same for people, up to a number of records that they state
//	processing.json    why, for whom, from where and how long the data is kept
//	manifest.json      the other files with their SHA-256
//	manifest.note      a signed note over the manifest and every byte in front of it
//
// Memory doesn't grow with the number of records. The records go by twice, for data.json and for the tables: an archive holds one
// file after the other, and nothing is put aside on a disk.
package dsar

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"time"
)

// The kinds of package.
const (
	Access      = "access"      // all that is held
	Portability = "portability" // what the person gave
)

// The regimes under which a package is asked for.
const (
	GDPR  = "gdpr"
	CCPA  = "ccpa"
	HIPAA = "hipaa"
)

// Head is what a package says of itself.
type Head struct {
	Request    string    `json:"request,omitempty"`
	Subject    string    `json:"subject"`
	Kind       string    `json:"kind"`
	Regime     string    `json:"regime"`
	Created    time.Time `json:"created_at"`
	Deployment string    `json:"deployment"`
	Tenant     string    `json:"tenant"`
}

// Field is a field of a collection as it is described.
type Field struct {
	Name           string   `json:"-"`
	Type           string   `json:"type"`
	Classification string   `json:"classification"`
	Purposes       []string `json:"purposes,omitempty"` // in place of the collection's
	Portable       bool     `json:"portable,omitempty"`
	// Held says what kind of identifier it is that the law lets nobody send; its values are not in the package.
	Held string `json:"held,omitempty"`
}

// Collection is a collection of which records are in the package.
type Collection struct {
	Name            string
	Description     string
	Purposes        []string // that it may be read for; none: any
	PurposeRequired bool
	Retention       *Retention // nil: none
	Fields          []Field    // those that the package is about
}

// Retention is how long a collection keeps its records.
type Retention struct {
	Keep   string `json:"keep,omitempty"`
	After  string `json:"after,omitempty"`
	Action string `json:"action,omitempty"`

	Minimum string `json:"minimum,omitempty"` // how long the law has it kept at least
	Ground  string `json:"ground,omitempty"`  // which law
}

// Record is one record of the person.
type Record struct {
	ID      string                     `json:"record"`
	Created time.Time                  `json:"created_at"`
	Updated time.Time                  `json:"updated_at"`
	Expires *time.Time                 `json:"expires_at,omitempty"`
	Values  map[string]json.RawMessage `json:"fields"`
	Held    []string                   `json:"held,omitempty"` // fields that have a value which is not sent
}

// Writer writes a package: Data, then a Table for each collection, then Finish. An error ends it; what was written by then is no
// archive and verifies nowhere.
type Writer struct {
	head       Head
	archive    *archive
	categories []*Category
	report     report
}

// New begins a package. Times of the head are UTC, whole seconds.
func New(out io.Writer, h Head) *Writer {
	h.Created = h.Created.UTC().Truncate(time.Second)
	return &Writer{head: h, archive: newArchive(out, h.Created)}
}

// Records hands records on, in their order.
type Records func(add func(*Record) error) error

// Data writes data.json. each calls collection for one collection after the other.
func (w *Writer) Data(each func(collection func(Collection, Records) error) error) error {
	return w.archive.file("data.json", func(out *bufio.Writer) error {
		if err := w.open(out, "privault-data/1"); err != nil {
			return err
		}
		_, _ = out.WriteString(`"collections":{`) // an error of out comes back when it is flushed
		err := each(func(c Collection, records Records) error {
			if len(w.categories) > 0 {
				_ = out.WriteByte(',')
			}
			return w.collection(out, c, records)
		})
		if err != nil {
			return err
		}
		_, _ = out.WriteString("\n}}\n")
		return nil
	})
}

// open writes a JSON file's first members: its format and the head.
func (w *Writer) open(out *bufio.Writer, format string) error {
	first, err := json.Marshal(struct {
		Format string `json:"format"`
		Head
	}{format, w.head})
	if err != nil {
		return err
	}
	_, _ = out.Write(first[:len(first)-1])
	_, _ = out.WriteString(",\n")
	return nil
}

func (w *Writer) collection(out *bufio.Writer, c Collection, records Records) error {
	about := newCategory(c)
	w.categories = append(w.categories, about)
	fields := make(map[string]Field, len(c.Fields))
	for _, f := range c.Fields {
		fields[f.Name] = f
	}
	head, err := json.Marshal(struct {
		Description string           `json:"description,omitempty"`
		Fields      map[string]Field `json:"fields"`
	}{c.Description, fields})
	if err != nil {
		return err
	}
	_, _ = out.WriteString("\n\"" + c.Name + "\":") // a name has nothing to escape
	_, _ = out.Write(head[:len(head)-1])
	_, _ = out.WriteString(`,"records":[`)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	err = records(func(r *Record) error {
		if about.Records > 0 {
			_ = out.WriteByte(',')
		}
		_ = out.WriteByte('\n')
		about.count(r)
		w.report.show(c, about.Records, r)
		return lines.Encode(r)
	})
	_, _ = out.WriteString("]}")
	return err
}

// Finish writes what is told of the processing, the reports, and what makes the package verifiable. sign gives a signed note of
// lines "name: value", under a title of its own.
func (w *Writer) Finish(p Processing, sign func(text string) ([]byte, error)) error {
	p.Categories, p.Rights = w.categories, rights[w.head.Regime]
	blocks := w.report.blocks(w.head, &p)
	for _, f := range []struct {
		name  string
		write func(*bufio.Writer) error
	}{
		{"report.html", func(out *bufio.Writer) error { return writeHTML(out, blocks) }},
		{"report.pdf", func(out *bufio.Writer) error { return writePDF(out, w.head.Created, blocks) }},
		{"processing.json", func(out *bufio.Writer) error {
			if err := w.open(out, "privault-processing/1"); err != nil {
				return err
			}
			rest, err := json.MarshalIndent(p, "", " ")
			_, _ = out.Write(append(bytes.TrimPrefix(rest, []byte("{\n")), '\n'))
			return err
		}},
	} {
		if err := w.archive.file(f.name, f.write); err != nil {
			return err
		}
	}
	return w.archive.finish(w.head, sign)
}
