package dsar

import (
	_ "embed"
	"html/template"
	"io"
)

//go:embed report.html
var htmlText string

var htmlReport = template.Must(template.New("report").Parse(htmlText))

// writeHTML writes a report as a page that loads nothing and runs nothing.
func writeHTML(w io.Writer, blocks []block) error { return htmlReport.Execute(w, blocks) }
