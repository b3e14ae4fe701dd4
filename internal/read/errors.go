package read

// AskedError marks an error about a revision that the request named: the request's own, not a sign of being behind.
type AskedError struct{ error }

func (e AskedError) Unwrap() error { return e.error }

func Asked(err error, named bool) error {
	if err == nil || !named {
		return err
	}
	return AskedError{err}
}
