package bench

import (
	"math"
	"slices"
	"time"
)

// Latency is how long orders took, from their start to their end, in milliseconds. The percentiles are exact: of all
// samples, by nearest rank, none interpolated and none put into buckets.
type Latency struct {
	Samples int     `json:"samples"`
	P50     float64 `json:"p50_ms"`
	P90     float64 `json:"p90_ms"`
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p999_ms"`
	Max     float64 `json:"max_ms"`
	// Curve has ten points for each nine, as far as there are samples: at 0, 90, 99 and 99.9 % and between.
	Curve []Quantile `json:"curve,omitempty"`
}

// Quantile says that this share of all orders, from 0 to 1, took at most so long.
type Quantile struct {
	Share float64 `json:"share"`
	MS    float64 `json:"ms"`
}

// latencyOf sorts the samples in place.
func latencyOf(samples []time.Duration) Latency {
	if len(samples) == 0 {
		return Latency{}
	}
	slices.Sort(samples)
	l := Latency{
		Samples: len(samples),
		P50:     rank(samples, 0.5), P90: rank(samples, 0.9), P99: rank(samples, 0.99), P999: rank(samples, 0.999), Max: rank(samples, 1),
	}
	for tenth := 0; ; tenth++ {
		beyond := math.Pow(10, -float64(tenth)/10)
		if beyond*float64(len(samples)) < 1 { // fewer than one sample lies beyond: from here on it is the maximum
			l.Curve = append(l.Curve, Quantile{1 - 1/float64(len(samples)), l.Max})
			return l
		}
		l.Curve = append(l.Curve, Quantile{1 - beyond, rank(samples, 1-beyond)})
	}
}

// rank is the smallest sample, in milliseconds, that at least this share of all samples does not exceed.
func rank(sorted []time.Duration, share float64) float64 {
	// Less than a sample's worth is taken off: 0.9 is not a binary fraction, and 0.9 of 10 must be the ninth.
	at := int(math.Ceil(share*float64(len(sorted))-1e-9)) - 1
	return milliseconds(sorted[min(max(at, 0), len(sorted)-1)])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
