package fetch

import (
	"joist/installer/answer"
	"joist/internal/finding"
)

// Findings lists what the search for an answer may say beside what reading it
// says.
func Findings() []answer.Row {
	return []answer.Row{
		{Code: "answer-not-found", Level: finding.Stop, When: "no place that is asked has an answer, and the networks that answer name no server", Cure: "`joist build iso --answer FILE`, a volume labelled `joist-answer`, or DHCP option 250"},
		{Code: "answer-ambiguous", Level: finding.Stop, When: "several volumes have the label", Cure: "attach exactly one"},
		{Code: "answer-refused", Level: finding.Stop, When: "the server shows another certificate than was asked for, or refuses the machine (400 to 499, but not 404, 408, 409, 425 or 429)", Cure: "give the right fingerprint or token; the finding says which"},
		{Code: "answer-server-silent", Level: finding.Stop, When: "there was no lease, no name server or no usable reply for ten minutes", Cure: "check cable, address and server"},
	}
}
