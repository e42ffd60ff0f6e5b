"""`Auto` against every fixed method."""
