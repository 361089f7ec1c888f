package lvmthin

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// LVM's JSON report (lvmreport(7), --reportformat json): every value is a
// string; sizes are bytes because of --units b --nosuffix.
type report struct {
	Report []struct {
		VG []vgRow `json:"vg"`
		LV []lvRow `json:"lv"`
	} `json:"report"`
}

type vgRow struct {
	Name   string `json:"vg_name"`
	UUID   string `json:"vg_uuid"`
	Extent bytes  `json:"vg_extent_size"`
}

type lvRow struct {
	Name string  `json:"lv_name"`
	Pool string  `json:"pool_lv"`
	Size bytes   `json:"lv_size"`
	Data percent `json:"data_percent"`
	Meta percent `json:"metadata_percent"`
	Time bytes   `json:"lv_time"` // seconds since 1970, by report/time_format
	Attr string  `json:"lv_attr"`
}

// active reads the fifth character of lv_attr (lvs(8)).
func (r lvRow) active() bool { return len(r.Attr) > 4 && r.Attr[4] == 'a' }

type bytes int64

func (b *bytes) UnmarshalJSON(j []byte) error {
	s := strings.Trim(string(j), `"`)
	if s == "" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	*b = bytes(n)
	return err
}

type percent float64

func (p *percent) UnmarshalJSON(j []byte) error {
	s := strings.Trim(string(j), `"`)
	if s == "" {
		return nil
	}
	n, err := strconv.ParseFloat(s, 64)
	*p = percent(n)
	return err
}

// of is p percent of n.
func (p percent) of(n bytes) int64 { return int64(float64(n) * float64(p) / 100) }

func parseReport(b []byte) (vgs []vgRow, lvs []lvRow, err error) {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, nil, fmt.Errorf("read report of lvm: %w", err)
	}
	for _, x := range r.Report {
		vgs, lvs = append(vgs, x.VG...), append(lvs, x.LV...)
	}
	return vgs, lvs, nil
}
