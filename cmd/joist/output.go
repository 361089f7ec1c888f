package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// output is how an answer is shown.
type output struct {
	json    bool
	columns []string
}

// write shows the data of an answer: lists of objects as tables, objects as
// lines, the rest as it is.
func (o output) write(w io.Writer, raw json.RawMessage) error {
	if len(raw) == 0 || !o.json && string(raw) == "null" {
		return nil
	}
	if o.json {
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return fmt.Errorf("show answer: %w", err)
		}
		_, err := fmt.Fprintln(w, b.String())
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("show answer: %w", err)
	}
	switch v := v.(type) {
	case []any:
		return o.list(w, v)
	case map[string]any:
		return o.lines(w, v)
	default:
		_, err := fmt.Fprintln(w, cell(v))
		return err
	}
}

func (o output) list(w io.Writer, list []any) error {
	var rows []map[string]any
	names := map[string]bool{}
	for _, x := range list {
		row, ok := x.(map[string]any)
		if !ok {
			row = map[string]any{"value": x}
		}
		rows = append(rows, row)
		for k := range row {
			names[k] = true
		}
	}
	if len(rows) == 0 {
		return nil
	}
	columns := o.columns
	if len(columns) == 0 {
		columns = slices.SortedFunc(maps.Keys(names), byRank)
	}
	var text strings.Builder // with spaces behind rows that end in empty cells
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(columns, "\t")))
	for _, row := range rows {
		cells := make([]string, len(columns))
		for i, name := range columns {
			if v, ok := row[name]; ok {
				cells[i] = cell(v)
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func (o output) lines(w io.Writer, row map[string]any) error {
	names := o.columns
	if len(names) == 0 {
		names = slices.SortedFunc(maps.Keys(row), byRank)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, name := range names {
		if v, ok := row[name]; ok {
			fmt.Fprintf(t, "%s\t%s\n", cell(name), cell(v))
		}
	}
	return t.Flush()
}

// leading are the keys that say what a row is about; the rest is in order of
// the alphabet.
const leading = " vmid volid id storage node userid roleid realm name hostname type status "

func byRank(a, b string) int {
	rank := func(s string) int {
		if i := strings.Index(leading, " "+s+" "); i >= 0 {
			return i
		}
		return len(leading)
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// cell is one value as one line; what could steer a terminal becomes "?".
func cell(v any) string {
	var s string
	switch v := v.(type) {
	case nil:
	case string:
		s = strings.ReplaceAll(strings.TrimRight(v, "\n"), "\n", "; ")
	case json.Number:
		s = v.String()
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return "?"
		}
		s = string(b)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
