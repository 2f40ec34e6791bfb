package dsar

import (
	_ "embed"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
)

// The font: Latin, Greek, Cyrillic, Armenian and Georgian letters, and many signs. Its licence stands beside it.
//
//go:embed DejaVuSansCondensed.ttf
var fontBytes []byte

var fontMap = sync.OnceValues(func() (*sfnt.Font, error) { return sfnt.Parse(fontBytes) })

const (
	unshown     = '□' // in place of a letter that the PDF can't show
	unshownNote = "Some letters can't be shown in this PDF: those of scripts that are written from right to left or that its font doesn't have. There is a □ in place of each. report.html and data.json have them all."
)

// letters makes texts out of what the font shows.
type letters struct {
	font   *sfnt.Font
	buffer sfnt.Buffer
	known  map[rune]bool
	lost   bool // something was not shown
}

// shows says whether a letter comes out right: fpdf sets letters one after the other, from left to right, below U+10000.
func (l *letters) shows(r rune) bool {
	shown, have := l.known[r]
	if !have {
		glyph, err := l.font.GlyphIndex(&l.buffer, r)
		direction, _ := bidi.LookupRune(r)
		class := direction.Class()
		shown = err == nil && glyph != 0 && r <= 0xffff && !unicode.In(r, unicode.Cc, unicode.Cf) &&
			class != bidi.R && class != bidi.AL && class != bidi.AN
		l.known[r] = shown
	}
	return shown
}

func (l *letters) text(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || l.shows(r):
			return r
		case r == '\t' || r == '\r':
			return ' '
		}
		l.lost = true
		return unshown
	}, norm.NFC.String(s))
}

func (l *letters) blocks(all []block) []block {
	shown := make([]block, len(all))
	for i, b := range all {
		shown[i] = block{Level: b.Level, Text: l.text(b.Text)}
		for _, p := range b.Pairs {
			shown[i].Pairs = append(shown[i].Pairs, pair{l.text(p.Term), l.text(p.Text)})
		}
	}
	return shown
}

// Millimetres and points.
const (
	pdfMargin = 18
	pdfTerm   = 52 // the width of the terms
	pdfGap    = 3
	pdfSize   = 9.5
	pdfLine   = 4.6
	pdfBottom = 20
)

// pdfHeads are the sizes of headings, by level.
var pdfHeads = [...]float64{0, 20, 14, 11}

// writePDF writes a report as a PDF, the same bytes for the same report.
func writePDF(w io.Writer, at time.Time, blocks []block) error {
	font, err := fontMap()
	if err != nil {
		return err
	}
	l := &letters{font: font, known: map[rune]bool{}}
	blocks = l.blocks(blocks)
	f := fpdf.New("P", "mm", "A4", "")
	f.SetCreationDate(at)
	f.SetModificationDate(at)
	f.SetCatalogSort(true)
	f.SetTitle(blocks[0].Text, true)
	f.SetLang("en")
	f.SetMargins(pdfMargin, pdfMargin, pdfMargin)
	f.SetAutoPageBreak(true, pdfBottom)
	f.AddUTF8FontFromBytes("report", "", fontBytes)
	f.SetFooterFunc(func() {
		f.SetY(-pdfBottom / 2)
		f.SetFont("report", "", 8)
		f.CellFormat(0, pdfLine, strconv.Itoa(f.PageNo()), "", 0, "C", false, 0, "")
	})
	f.AddPage()
	for i, b := range blocks {
		writeBlock(f, b)
		if i == 0 && l.lost {
			writeBlock(f, block{Text: unshownNote})
		}
	}
	return f.Output(w)
}

func writeBlock(f *fpdf.Fpdf, b block) {
	size, line := pdfSize, pdfLine
	if b.Level > 0 {
		size = pdfHeads[b.Level]
		line = size * 0.5
		f.Ln(line)
	}
	if b.Text != "" {
		f.SetFont("report", "", size)
		if b.Level > 0 {
			keepTogether(f, line+4*pdfLine)
		}
		f.MultiCell(0, line, b.Text, "", "L", false)
		f.Ln(1)
	}
	f.SetFont("report", "", pdfSize)
	for _, p := range b.Pairs {
		writePair(f, p)
	}
	if len(b.Pairs) > 0 {
		f.Ln(pdfLine / 2)
	}
}

// writePair sets a term and its text side by side. A text of more than a page goes on on the next.
func writePair(f *fpdf.Fpdf, p pair) {
	keepTogether(f, 2*pdfLine)
	top, page := f.GetY(), f.PageNo()
	f.SetTextColor(90, 90, 90)
	f.MultiCell(pdfTerm-pdfGap, pdfLine, p.Term, "", "L", false)
	f.SetTextColor(0, 0, 0)
	bottom, after := f.GetY(), f.PageNo()
	if after == page { // else the text stands below its term
		f.SetY(top)
	}
	f.SetLeftMargin(pdfMargin + pdfTerm)
	f.SetX(pdfMargin + pdfTerm)
	f.MultiCell(0, pdfLine, p.Text, "", "L", false)
	f.SetLeftMargin(pdfMargin)
	f.SetX(pdfMargin)
	if f.PageNo() == page && f.GetY() < bottom {
		f.SetY(bottom)
	}
}

// keepTogether begins a new page if there is less than so much room.
func keepTogether(f *fpdf.Fpdf, room float64) {
	if _, height := f.GetPageSize(); f.GetY()+room > height-pdfBottom {
		f.AddPage()
	}
}
