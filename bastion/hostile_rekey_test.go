package bastion_test

import (
	"strings"
	"testing"
	"time"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

func TestARenewalOfKeysThatIsNeverFinishedEnds(t *testing.T) {
	goroutinesReturn(t)
	for name, begin := range map[string]func(*bastiontest.Raw) error{
		"with KEXINIT":   func(r *bastiontest.Raw) error { return r.SendKexInit() },
		"before NEWKEYS": func(r *bastiontest.Raw) error { return r.RekeyUntil(bastiontest.SentKexECDHInit) },
	} {
		t.Run(name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Limits: func(l *bastion.Limits) {
				l.KeepaliveInterval, l.KeepaliveMaxMissed = 300*time.Millisecond, 3
			}})
			w := watch(t, b, nil)
			port := bastiontest.Target(t, pour)
			r := logIn(t, b)
			r.OpenTarget(0, 1<<30, "target", port) // what the target sends has to wait
			r.Await(94)
			if err := begin(r); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			rec := hasEnded(t, b.Book)
			if took := time.Since(began); rec.Reason != "keepalive" || took > worstRound {
				t.Errorf("after %v: %s", took, rec.AppendJSON(nil))
			}
			w.unharmed()
			w.client.Close()
			gone(t, b)
			b.Book.Check(t)
		})
	}
}

func TestKeysAreRenewedOverAndOverOnlyAsOftenAsTheServerBears(t *testing.T) {
	goroutinesReturn(t)
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	w := watch(t, b, nil)
	r := logIn(t, b)
	began, n := time.Now(), 0
	for ; !strings.Contains(b.Lines.String(), "renewed too often"); n++ {
		if most := bastion.RenewalBurst + int(time.Since(began)/bastion.RenewalEvery) + 1; n > most {
			t.Fatalf("%d renewals, want at most %d", n, most)
		}
		if err := r.Rekey(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d renewals took %v", n, time.Since(began))
	if n < bastion.RenewalBurst {
		t.Errorf("the %dth has to wait", n)
	}

	// From here on each waits, also that of another connection of alice.
	other := logIn(t, b)
	began = time.Now()
	for _, r := range []*bastiontest.Raw{r, other, r} {
		if err := r.Rekey(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 2*bastion.RenewalEvery {
		t.Errorf("three more took %v", took)
	}
	bob := silent(t, b) // whom it does not concern
	if err := bob.Until(bastiontest.SentServiceRequest); err != nil || !bob.Prove("bob", b.Bob) {
		t.Fatalf("bob's login: %v", err)
	}
	began = time.Now()
	if err := bob.Rekey(); err != nil || time.Since(began) > bastion.RenewalEvery {
		t.Errorf("bob's keys: %v after %v", err, time.Since(began))
	}
	bob.Close()

	// With data between them they are as often as they like.
	port := bastiontest.Target(t, pour)
	r.OpenTarget(0, 1<<30, "target", port)
	began = time.Now()
	for range 2 {
		for got := 0; got < bastion.RenewalFree; {
			got += len(r.Await(94))
		}
		if err := r.Rekey(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("two with data between them took %v", time.Since(began))
	w.unharmed()
	r.Close()
	other.Close()
}

// What one renewal with the costliest key exchange takes is what its limit is
// made for.
func TestTheCostliestKeyExchange(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	r := silent(t, b)
	r.KeyExchange = bastiontest.Group16
	if err := r.Until(bastiontest.SentServiceRequest); err != nil || !r.Prove("alice", b.Alice) {
		t.Fatalf("login: %v", err)
	}
	const times = 5
	began := time.Now()
	for range times {
		if err := r.Rekey(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("one renewal by %s takes %v", bastiontest.Group16, time.Since(began)/times)
}

func TestKeysAreHardlyRenewedBeforeALogin(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	r := bastiontest.NewRaw(t, b)
	r.TryNone("alice")
	n := 0
	for ; r.Rekey() == nil; n++ {
	}
	if n > 3 {
		t.Errorf("they were renewed %d times", n)
	}
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "too_many_tries" || !strings.Contains(rec.Detail, "renewed") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}
